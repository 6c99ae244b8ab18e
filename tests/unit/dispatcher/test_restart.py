"""Restarts: when a task is replaced, when its replacement starts, and when it is left alone."""

from __future__ import annotations

import msgspec
import pytest

from services.kit.model.specs import RestartPolicy
from services.kit.model.states import Availability, NodeState, RestartCondition, TaskState
from services.kit.state.transaction import update
from tests.support.convergence import Swarm

_replace = msgspec.structs.replace


def swarm_with(policy: RestartPolicy, *, nodes: int = 2, replicas: int = 1) -> Swarm:
    swarm = Swarm(nodes)
    swarm.create_service(replicas=replicas, restart=policy)
    swarm.settle()
    return swarm


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.COMPLETE, TaskState.REJECTED])
def test_with_any_condition_an_ended_task_is_replaced_after_the_delay(state: TaskState) -> None:
    swarm = swarm_with(RestartPolicy(delay_s=5))
    swarm.end_task(swarm.running()[0], state)
    swarm.settle()
    old, new = swarm.tasks()
    assert (old.desired_state, new.desired_state) == (TaskState.SHUTDOWN, TaskState.READY)
    assert new.status.state is TaskState.READY, "the node prepares it meanwhile"
    swarm.pass_time(4.9)
    assert swarm.running() == []
    swarm.pass_time(0.2)
    assert [task.id for task in swarm.running()] == [new.id]


def test_on_failure_leaves_a_completed_task_alone_until_the_spec_changes() -> None:
    swarm = swarm_with(RestartPolicy(condition=RestartCondition.ON_FAILURE, delay_s=0))
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.settle()
    assert len(swarm.running()) == 1
    swarm.end_task(swarm.running()[0], TaskState.COMPLETE)
    swarm.pass_time(100)
    assert swarm.running() == []
    swarm.update_service("web", swarm.service().spec)
    swarm.pass_time(100)
    assert swarm.running() == [], "an update that changes nothing starts nothing"
    swarm.set_image("web", "v2")
    swarm.pass_time(100)
    assert swarm.images(swarm.running()) == ["v2"]


def test_without_restart_a_failed_task_stays_failed() -> None:
    swarm = swarm_with(RestartPolicy(condition=RestartCondition.NONE))
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(1000)
    assert len(swarm.tasks()) == 1


def test_attempts_are_counted_by_slot_and_spec_and_survive_a_change_of_leader() -> None:
    swarm = swarm_with(RestartPolicy(max_attempts=2, delay_s=0))
    for _ in range(2):
        swarm.end_task(swarm.running()[0], TaskState.FAILED)
        swarm.pass_time(1)
        swarm.become_leader()
        swarm.settle()
        assert len(swarm.running()) == 1
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(1000)
    assert swarm.running() == []
    swarm.become_leader()
    swarm.pass_time(1000)
    assert swarm.running() == []
    assert len(swarm.tasks()) == 3
    swarm.set_image("web", "v2")
    swarm.pass_time(1)
    assert len(swarm.running()) == 1


def test_attempts_outside_the_window_are_forgotten() -> None:
    swarm = swarm_with(RestartPolicy(max_attempts=1, window_s=60, delay_s=0))
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.settle()
    swarm.pass_time(61)
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(1)
    assert len(swarm.running()) == 1, "the first restart is out of the window"
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(1)
    assert swarm.running() == []


def test_a_task_that_fails_while_it_is_prepared_waits_for_its_own_delay_first() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=10))
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.settle()
    swarm.end_task(swarm.tasks()[-1], TaskState.REJECTED)
    swarm.pass_time(5)
    assert len(swarm.tasks()) == 2, "a tight loop"
    swarm.pass_time(5.1)
    assert len(swarm.tasks()) == 3


def test_tasks_of_a_node_that_is_down_run_elsewhere_at_once() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=5), replicas=4)
    swarm.lose_node("n1")
    swarm.settle()
    assert [task.node_id for task in swarm.running()] == ["n2"] * 4


def test_a_drained_node_is_emptied_and_its_tasks_start_once_the_old_ones_stopped() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=5), replicas=2)
    node = swarm.state.nodes[swarm.running()[0].node_id]  # type: ignore[index]
    swarm.obedient.clear()
    spec = node.spec
    swarm.change_node(node.id, spec=type(spec)(availability=Availability.DRAIN))
    swarm.settle()
    fresh = [task for task in swarm.tasks() if task.desired_state is TaskState.READY]
    assert len(fresh) == 1, "the old task has not stopped yet"
    assert fresh[0].node_id != node.id
    swarm.obedient.update(swarm.state.nodes)
    swarm.settle()
    assert {task.node_id for task in swarm.running()} == {fresh[0].node_id}
    assert len(swarm.running()) == 2


def test_a_replacement_waits_at_most_a_minute_for_a_task_that_does_not_stop() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=5))
    node = swarm.running()[0].node_id
    assert node is not None
    swarm.obedient.discard(node)
    swarm.change_node(node, spec=type(swarm.state.nodes[node].spec)(availability=Availability.DRAIN))
    swarm.pass_time(59)
    assert all(task.node_id == node for task in swarm.running())
    swarm.pass_time(2)
    assert [task.node_id for task in swarm.running() if task.node_id != node]


@pytest.mark.parametrize("state", [NodeState.UNKNOWN, NodeState.DISCONNECTED])
def test_a_node_that_may_come_back_keeps_its_tasks(state: NodeState) -> None:
    swarm = swarm_with(RestartPolicy(), replicas=2)
    before = {task.id for task in swarm.running()}
    swarm.set_node_state("n1", state)
    swarm.pass_time(100)
    assert {task.id for task in swarm.tasks()} == before


def test_a_new_leader_finds_what_ended_while_nobody_led() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=5), replicas=2)
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    (flight,) = swarm.plan()
    swarm.land(flight)
    swarm.become_leader()
    swarm.pass_time(5.1)
    assert [task.slot for task in swarm.running()] == [1, 2]
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.settle()
    swarm.pass_time(3)
    swarm.become_leader()
    swarm.pass_time(1.9)
    assert len(swarm.running()) == 1
    swarm.pass_time(0.2)
    assert len(swarm.running()) == 2, "the delay went on through the change of leader"


def fail_and_measure(swarm: Swarm) -> float:
    """Let the running task fail and return how long its successor waits."""
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.settle()
    before = swarm.now
    while not swarm.running():
        due = swarm.planning.due()
        assert due is not None
        swarm.now = max(swarm.now, due)
        swarm.settle()
    return swarm.now - before


def test_the_delay_grows_with_each_restart_in_a_row_up_to_its_limit() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=1, backoff_factor=3, delay_max_s=20), nodes=1)
    waits = [fail_and_measure(swarm) for _ in range(5)]
    assert waits == pytest.approx([1, 3, 9, 20, 20], abs=0.01)


def test_a_task_that_ran_for_long_starts_the_back_off_afresh_and_a_new_leader_goes_on_with_it() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=1, backoff_factor=2, delay_max_s=60), nodes=1)
    assert [fail_and_measure(swarm) for _ in range(2)] == pytest.approx([1, 2], abs=0.01)
    swarm.become_leader()
    assert fail_and_measure(swarm) == pytest.approx(4, abs=0.01)
    swarm.pass_time(61)
    assert fail_and_measure(swarm) == pytest.approx(8, abs=0.01), "this task was itself the fourth try"
    assert fail_and_measure(swarm) == pytest.approx(1, abs=0.01)


def test_jitter_spreads_delays_around_the_policys() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=10, jitter=0.5), nodes=1)
    waits = [fail_and_measure(swarm) for _ in range(8)]
    assert all(5 <= wait <= 15 for wait in waits)
    assert len({round(wait, 3) for wait in waits}) > 4


def test_a_policy_of_none_is_over_when_the_spec_changes() -> None:
    swarm = swarm_with(RestartPolicy(condition=RestartCondition.NONE))
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.settle()
    swarm.set_image("web", "v2")
    swarm.pass_time(10)
    assert swarm.images(swarm.running()) == ["v2"]


def test_a_new_leader_waits_only_for_the_rest_of_a_delay() -> None:
    swarm = swarm_with(RestartPolicy(delay_s=30))
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(20)
    swarm.become_leader()
    swarm.pass_time(9)
    assert swarm.running() == []
    swarm.pass_time(2)
    assert len(swarm.running()) == 1


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.REJECTED, TaskState.COMPLETE])
def test_a_new_leader_replaces_what_ended_in_any_way(state: TaskState) -> None:
    swarm = swarm_with(RestartPolicy(delay_s=0))
    (task,) = swarm.running()
    swarm.write(update(_replace(task, status=_replace(task.status, state=state))))
    swarm.become_leader()
    swarm.settle()
    assert len(swarm.running()) == 1
    assert swarm.state.tasks[task.id].desired_state is TaskState.SHUTDOWN
