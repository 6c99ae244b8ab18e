"""History and removal: what is kept, what is deleted, and what is orphaned."""

from __future__ import annotations

import msgspec

from services.kit.model.specs import NodeSpec, RestartPolicy
from services.kit.model.states import NodeState, Role, TaskState
from services.kit.state.transaction import remove, update
from tests.support.convergence import Swarm

_replace = msgspec.structs.replace


def fail_often(swarm: Swarm, times: int) -> None:
    for _ in range(times):
        swarm.end_task(swarm.running()[0], TaskState.FAILED)
        swarm.pass_time(1)


def test_a_slot_keeps_as_many_tasks_as_the_history_allows_the_running_one_included() -> None:
    swarm = Swarm(1, history=3)
    swarm.create_service(replicas=1, restart=RestartPolicy(delay_s=0))
    swarm.settle()
    fail_often(swarm, 6)
    assert [task.status.state for task in swarm.tasks()] == [TaskState.FAILED, TaskState.FAILED, TaskState.RUNNING]


def test_the_oldest_are_deleted_first() -> None:
    swarm = Swarm(1, history=2)
    swarm.create_service(replicas=1, restart=RestartPolicy(delay_s=0))
    swarm.settle()
    ids = []
    for _ in range(3):
        ids.append(swarm.running()[0].id)
        fail_often(swarm, 1)
    assert [task.id for task in swarm.tasks()][:1] == ids[-1:]


def test_a_limit_of_attempts_keeps_what_counting_them_needs() -> None:
    swarm = Swarm(1, history=1)
    swarm.create_service(replicas=1, restart=RestartPolicy(delay_s=0, max_attempts=3))
    swarm.settle()
    fail_often(swarm, 3)
    assert len(swarm.tasks()) == 4


def test_a_history_of_none_keeps_only_what_runs_and_a_negative_one_keeps_all() -> None:
    for history, kept in ((0, 1), (-1, 4)):
        swarm = Swarm(1, history=history)
        swarm.create_service(replicas=1, restart=RestartPolicy(delay_s=0))
        swarm.settle()
        fail_often(swarm, 3)
        assert len(swarm.tasks()) == kept


def test_a_task_to_remove_is_deleted_only_when_it_has_stopped() -> None:
    swarm = Swarm(1)
    swarm.create_service(replicas=2)
    swarm.settle()
    swarm.scale("web", 1)
    swarm.settle(agents=False)
    assert [task.desired_state for task in swarm.tasks()] == [TaskState.RUNNING, TaskState.REMOVE]
    swarm.settle()
    assert len(swarm.tasks()) == 1


def test_a_task_that_no_node_has_is_deleted_at_once() -> None:
    swarm = Swarm(0)
    swarm.create_service(replicas=2)
    swarm.settle()
    assert [task.status.state for task in swarm.tasks()] == [TaskState.PENDING] * 2
    swarm.remove_service("web")
    swarm.settle()
    assert swarm.tasks() == []


def test_tasks_of_a_node_that_is_down_for_a_day_are_orphaned_and_not_before() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    swarm.lose_node("n1")
    swarm.pass_time(24 * 3600 - 10)
    assert TaskState.ORPHANED not in {task.status.state for task in swarm.tasks()}
    swarm.become_leader()
    swarm.pass_time(20)
    assert [task.status.state for task in swarm.tasks() if task.node_id == "n1"] == [TaskState.ORPHANED]
    assert len(swarm.running()) == 2


def test_a_node_that_returns_within_the_day_orphans_nothing() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    swarm.set_node_state("n1", NodeState.DISCONNECTED)
    swarm.pass_time(3600)
    swarm.set_node_state("n1", NodeState.READY)
    swarm.pass_time(48 * 3600)
    assert TaskState.ORPHANED not in {task.status.state for task in swarm.tasks()}


def test_tasks_on_a_node_that_was_removed_are_orphaned_and_made_again() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    swarm.obedient.discard("n1")
    swarm.write(remove(swarm.state.nodes["n1"]))  # type: ignore[index]
    swarm.settle()
    assert [task.node_id for task in swarm.running()] == ["n2", "n2"]
    assert [task.status.state for task in swarm.tasks() if task.node_id == "n1"] == [TaskState.ORPHANED]


def test_a_new_leader_cleans_up_what_the_last_one_left() -> None:
    swarm = Swarm(1)
    swarm.create_service(replicas=2)
    swarm.settle()
    service = swarm.service()
    del swarm.planning
    swarm.write(remove(service))
    swarm.become_leader()
    swarm.settle()
    assert swarm.tasks() == []
    assert not swarm.state.specs_of(service.id)


def with_ghosts_after(swarm: Swarm, seconds: float) -> None:
    cluster = swarm.state.cluster
    assert cluster is not None
    orchestration = _replace(cluster.spec.orchestration, ghost_nodes_after_s=seconds)
    swarm.write(update(_replace(cluster, spec=_replace(cluster.spec, orchestration=orchestration))))


def test_a_worker_that_has_been_down_for_the_set_time_is_removed() -> None:
    swarm = Swarm(3)
    swarm.create_service(replicas=3)
    swarm.settle()
    with_ghosts_after(swarm, 3600)
    swarm.change_node("n2", role=Role.MANAGER, spec=NodeSpec(desired_role=Role.MANAGER))
    swarm.lose_node("n1")
    swarm.lose_node("n2")
    swarm.pass_time(3599)
    assert len(swarm.state.nodes) == 3
    swarm.become_leader()
    swarm.pass_time(2)
    assert sorted(swarm.state.nodes) == ["n2", "n3"], "a manager is never a ghost"
    assert {task.status.state for task in swarm.tasks() if task.node_id == "n1"} <= {TaskState.ORPHANED}


def test_a_node_that_returns_in_time_is_no_ghost_and_without_the_setting_none_is() -> None:
    swarm = Swarm(2)
    swarm.lose_node("n1")
    swarm.pass_time(1_000_000)
    assert len(swarm.state.nodes) == 2
    swarm.set_node_state("n1", NodeState.READY)
    with_ghosts_after(swarm, 3600)
    swarm.lose_node("n2")
    swarm.pass_time(3000)
    swarm.set_node_state("n2", NodeState.READY)
    swarm.pass_time(10_000)
    assert len(swarm.state.nodes) == 2
