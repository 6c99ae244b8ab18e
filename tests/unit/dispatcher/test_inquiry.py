"""``why``: what it says of things that are not where they should be."""

from __future__ import annotations

import pytest

from services.dispatcher.core.desk import Desk
from services.dispatcher.core.inquiry.answers import why
from services.kit.errors import NotFound
from services.kit.messages.inquiry import Finding
from services.kit.model.specs import (
    CronSchedule,
    Dependency,
    NodeSpec,
    Placement,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    TaskSpec,
)
from services.kit.model.states import Availability, DependencyCondition, NodeState, RestartCondition, Role, TaskState
from tests.support.convergence import Swarm, a_service_spec


def findings(swarm: Swarm, ref: str = "web") -> tuple[Finding, ...]:
    return why(Desk(swarm.state), ref, swarm.now).findings


def only(swarm: Swarm, ref: str = "web") -> Finding:
    (finding,) = findings(swarm, ref)
    return finding


def test_nothing_is_said_of_what_is_as_it_should_be() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    for ref in ("web", "n1", swarm.running()[0].id):
        assert findings(swarm, ref) == ()


def test_what_does_not_exist_is_not_found() -> None:
    with pytest.raises(NotFound):
        findings(Swarm(1), "nothing")


def test_tasks_that_wait_for_the_same_are_one_finding_with_the_nearest_miss() -> None:
    swarm = Swarm(2)
    swarm.change_node("n2", spec=NodeSpec(availability=Availability.PAUSE))
    reservations = Resources(memory_bytes=40 << 30)
    task = TaskSpec(driver="fake", resources=ResourceRequirements(reservations=reservations))
    swarm.create_service(a_service_spec(replicas=3, task=task))
    swarm.settle()
    finding = only(swarm)
    assert finding.about.startswith("3 tasks")
    assert finding.waits_for == "a node that fits"
    assert sorted((r.reason, r.nodes) for r in finding.refusals) == [
        ("1 node not available for new tasks", 1),
        ("insufficient resources on 1 node", 1),
    ]
    assert finding.nearest is not None
    assert finding.nearest.node_name == "n1"
    assert finding.nearest.lacks == ("40 GiB of memory wanted, 16 GiB of memory free",)
    assert finding.mend
    assert finding.since > 0


def test_the_constraints_that_fail_are_named() -> None:
    swarm = Swarm(1)
    task = TaskSpec(driver="fake", placement=Placement(constraints=("node.role==worker", "node.labels.disk==ssd")))
    swarm.create_service(a_service_spec(task=task))
    swarm.settle()
    nearest = only(swarm).nearest
    assert nearest is not None
    assert nearest.lacks == ("node.labels.disk == ssd",)


def test_a_swarm_without_nodes_says_so() -> None:
    swarm = Swarm(0)
    swarm.create_service()
    swarm.settle()
    assert only(swarm).waits_for == "a node: there is none"


def test_a_dependency_is_named() -> None:
    swarm = Swarm(1)
    depends_on = (Dependency(service="db", condition=DependencyCondition.HEALTHY),)
    swarm.create_service(a_service_spec(depends_on=depends_on))
    swarm.settle()
    assert only(swarm).waits_for == "service db to exist"


def test_a_restart_delay_is_counted_down() -> None:
    swarm = Swarm(1)
    swarm.create_service(restart=RestartPolicy(delay_s=30))
    swarm.settle()
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(10)
    assert [finding.waits_for for finding in findings(swarm)] == ["its restart delay, 20.0 s more"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (RestartPolicy(condition=RestartCondition.NONE), "its restart policy is none"),
        (RestartPolicy(max_attempts=1, delay_s=0), "its 1 restart attempts are used up"),
    ],
)
def test_what_is_not_restarted_says_why(policy: RestartPolicy, words: str) -> None:
    swarm = Swarm(1)
    swarm.create_service(restart=policy)
    swarm.settle()
    for _ in range(2):
        for task in swarm.running():
            swarm.end_task(task, TaskState.FAILED)
        swarm.pass_time(1)
    assert words in only(swarm).waits_for


def test_a_paused_update_says_what_failed_and_what_to_do() -> None:
    swarm = Swarm(1)
    swarm.create_service(replicas=2, restart=RestartPolicy(condition=RestartCondition.NONE))
    swarm.settle()
    swarm.behaviour = lambda task: TaskState.FAILED
    swarm.set_image("web", "v2")
    swarm.pass_time(30)
    first = findings(swarm)[0]
    assert "update paused due to failure" in first.waits_for
    assert "resume" in first.mend


def test_a_task_on_a_lost_node_waits_for_it() -> None:
    swarm = Swarm(1)
    swarm.create_service()
    swarm.settle()
    swarm.set_node_state("n1", NodeState.UNKNOWN)
    assert "node n1 to come back, which is unknown" in only(swarm).waits_for
    swarm.lose_node("n1")
    swarm.settle()
    states = [finding.waits_for for finding in findings(swarm)]
    assert any("nobody can say that it stopped" in words for words in states)


def test_a_task_that_stops_or_starts_says_so() -> None:
    swarm = Swarm(1)
    swarm.obedient.clear()
    swarm.create_service()
    swarm.settle()
    assert only(swarm).waits_for == "its agent to take it"
    swarm.scale("web", 0)
    swarm.settle()
    assert "it to stop" in only(swarm).waits_for


def test_nodes_say_what_they_wait_for() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    swarm.change_node("n1", spec=NodeSpec(availability=Availability.PAUSE))
    assert "it is paused" in only(swarm, "n1").waits_for
    swarm.change_node("n1", spec=NodeSpec(desired_role=Role.MANAGER))
    assert "its role to become manager" in only(swarm, "n1").waits_for
    swarm.obedient.clear()
    swarm.change_node("n1", spec=NodeSpec(availability=Availability.DRAIN))
    assert only(swarm, "n1").waits_for == "1 tasks to leave it"
    swarm.set_node_state("n2", NodeState.DOWN)
    assert "register" in only(swarm, "n2").waits_for


def test_a_scheduled_job_says_when_it_is_due() -> None:
    swarm = Swarm(1)
    swarm.now = 1_700_000_000.0 // 3600 * 3600 + 60
    schedule = CronSchedule(cron="0 * * * *")
    swarm.create_service(a_service_spec(mode=ReplicatedJob(schedule=schedule)))
    swarm.settle()
    assert only(swarm).waits_for == "its next run, in 3540 s"
