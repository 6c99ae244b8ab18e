"""Dependencies between services: tasks wait for what they need and say so; circles are refused."""

from __future__ import annotations

import pytest

from services.kit.errors import InvalidArgument
from services.kit.model.objects import Task
from services.kit.model.specs import Dependency, Replicated, ReplicatedJob, RestartPolicy
from services.kit.model.states import DependencyCondition, TaskState
from tests.support.convergence import Swarm, a_service_spec


def waits(name: str, condition: DependencyCondition = DependencyCondition.HEALTHY) -> tuple[Dependency, ...]:
    return (Dependency(service=name, condition=condition),)


def message(swarm: Swarm, name: str = "web") -> str:
    (text,) = {task.status.message for task in swarm.tasks(name)}
    return text


def test_a_task_waits_until_the_other_service_exists_and_runs() -> None:
    swarm = Swarm(2)
    swarm.create_service(a_service_spec(replicas=2, depends_on=waits("db")))
    swarm.settle()
    assert {task.status.state for task in swarm.tasks()} == {TaskState.NEW}
    assert message(swarm) == "waiting for service db to exist"
    swarm.create_service(a_service_spec("db", replicas=2))
    swarm.settle(agents=False)
    assert message(swarm) == "waiting for service db to be running and healthy"
    swarm.settle()
    assert len(swarm.running()) == 2


def test_healthy_waits_for_every_task_and_started_only_for_their_start() -> None:
    for condition, state in (
        (DependencyCondition.HEALTHY, TaskState.NEW),
        (DependencyCondition.STARTED, TaskState.RUNNING),
    ):
        swarm = Swarm(2)
        swarm.behaviour = lambda task: TaskState.STARTING if task.service_id == "id-db" else None
        swarm.create_service(a_service_spec("db"))
        swarm.create_service(a_service_spec(depends_on=waits("db", condition)))
        swarm.settle_for(50)
        assert [task.status.state for task in swarm.tasks()] == [state]


def test_completed_waits_for_the_whole_job() -> None:
    swarm = Swarm(2)
    swarm.create_service(
        a_service_spec(
            "migrate", mode=ReplicatedJob(max_concurrent=1, total_completions=2), restart=RestartPolicy(delay_s=0)
        )
    )
    swarm.create_service(a_service_spec(depends_on=waits("migrate", DependencyCondition.COMPLETED)))
    for expected in (0, 0, 1):
        swarm.settle()
        assert len(swarm.running()) == expected
        for task in swarm.tasks("migrate", where=lambda t: t.status.state is TaskState.RUNNING):
            swarm.end_task(task, TaskState.COMPLETE)
    assert message(swarm) != "waiting for service migrate to complete"


def test_a_failed_job_lets_nobody_on_and_its_second_success_does() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec("migrate", mode=ReplicatedJob(), restart=RestartPolicy(delay_s=0)))
    swarm.create_service(a_service_spec(depends_on=waits("migrate", DependencyCondition.COMPLETED)))
    swarm.settle()

    def end(state: TaskState) -> None:
        (task,) = swarm.tasks("migrate", where=lambda t: t.status.state is TaskState.RUNNING)
        swarm.end_task(task, state)
        swarm.pass_time(1)

    end(TaskState.FAILED)
    assert swarm.running() == []
    end(TaskState.COMPLETE)
    assert len(swarm.running()) == 1


def test_a_chain_comes_up_in_order() -> None:
    swarm = Swarm(2)
    swarm.create_service(a_service_spec("c", depends_on=waits("b")))
    swarm.create_service(a_service_spec("b", depends_on=waits("a")))
    started: list[str] = []

    def behave(task: Task) -> None:
        if task.service_id not in started:
            started.append(task.service_id)

    swarm.behaviour = behave
    swarm.create_service(a_service_spec("a"))
    swarm.settle()
    assert started == ["id-a", "id-b", "id-c"]


def test_what_runs_goes_on_when_what_it_needed_goes_away() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec("db"))
    swarm.create_service(a_service_spec(depends_on=waits("db")))
    swarm.settle()
    swarm.remove_service("db")
    swarm.settle()
    assert len(swarm.running()) == 1


def test_a_new_leader_goes_on_waiting() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(depends_on=waits("db")))
    swarm.settle()
    swarm.become_leader()
    swarm.create_service(a_service_spec("db"))
    swarm.settle()
    assert len(swarm.running()) == 1


def test_a_service_scaled_to_none_counts_as_there() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec("db", mode=Replicated(replicas=0)))
    swarm.create_service(a_service_spec(depends_on=waits("db")))
    swarm.settle()
    assert len(swarm.running()) == 1


def test_a_circle_is_refused_at_once_and_named() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec("a", depends_on=waits("b")))
    swarm.create_service(a_service_spec("b", depends_on=waits("c")))
    with pytest.raises(InvalidArgument, match="c → a → b → c"):
        swarm.create_service(a_service_spec("c", depends_on=waits("a")))
    with pytest.raises(InvalidArgument, match="cannot wait for itself"):
        swarm.create_service(a_service_spec("d", depends_on=waits("d")))
