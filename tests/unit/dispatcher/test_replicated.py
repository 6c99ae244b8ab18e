"""Replicated services: slots are filled, emptied in the right order, and never filled twice."""

from __future__ import annotations

from collections import Counter

from services.kit.model.specs import Placement, RestartPolicy, TaskSpec
from services.kit.model.states import RestartCondition, TaskState
from services.kit.state.transaction import Action, remove
from tests.support.convergence import Swarm, a_service_spec


def test_a_service_gets_its_tasks_in_the_lowest_slots_spread_over_the_nodes() -> None:
    swarm = Swarm(3)
    swarm.create_service(replicas=6)
    swarm.settle()
    assert [task.slot for task in swarm.running()] == [1, 2, 3, 4, 5, 6]
    assert set(Counter(task.node_id for task in swarm.running()).values()) == {2}


def test_a_task_is_created_allocated_and_placed_in_one_write() -> None:
    swarm = Swarm(2)
    swarm.settle()
    swarm.create_service(replicas=2)
    flights = swarm.plan()
    assert [op.action for flight in flights for op in flight.ops] == [Action.TASKS]
    swarm.land(flights[0])
    assert [task.status.state for task in swarm.tasks()] == [TaskState.ASSIGNED] * 2


def test_scaling_up_adds_only_what_is_missing() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    before = {task.id for task in swarm.running()}
    swarm.scale("web", 5)
    swarm.settle()
    assert len(swarm.running()) == 5
    assert before < {task.id for task in swarm.running()}
    assert swarm.service().update_status is None, "scaling is not an update"


def test_scaling_down_takes_from_the_fullest_nodes_and_keeps_low_slots() -> None:
    swarm = Swarm(1)
    swarm.create_service(replicas=4)
    swarm.settle()
    swarm.add_node("n2")
    swarm.scale("web", 6)
    swarm.settle()
    assert Counter(task.node_id for task in swarm.running()) == {"n1": 4, "n2": 2}
    swarm.scale("web", 4)
    swarm.settle()
    assert Counter(task.node_id for task in swarm.running()) == {"n1": 2, "n2": 2}
    assert [task.slot for task in swarm.running() if task.node_id == "n1"] == [1, 2]


def test_scaling_down_drops_a_task_without_a_node_first() -> None:
    swarm = Swarm(1)
    spec = a_service_spec(replicas=3, task=TaskSpec(driver="fake", placement=Placement(max_replicas=2)))
    swarm.create_service(spec)
    swarm.settle()
    assert [task.node_id for task in swarm.tasks()].count(None) == 1
    swarm.scale("web", 2)
    swarm.settle()
    assert len(swarm.running()) == 2
    assert len(swarm.tasks()) == 2


def test_scaling_to_zero_and_back_starts_afresh() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    swarm.scale("web", 0)
    swarm.settle()
    assert swarm.tasks() == []
    swarm.scale("web", 2)
    swarm.settle()
    assert [task.slot for task in swarm.running()] == [1, 2]


def test_a_task_that_somebody_deleted_is_made_again_in_its_slot() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    swarm.write(remove(swarm.running()[1]))
    swarm.settle()
    assert [task.slot for task in swarm.running()] == [1, 2]


def test_a_slot_that_ended_for_good_counts_and_is_not_filled_again() -> None:
    swarm = Swarm(1)
    swarm.create_service(replicas=1, restart=RestartPolicy(condition=RestartCondition.NONE))
    swarm.settle()
    swarm.end_task(swarm.running()[0], TaskState.COMPLETE)
    swarm.pass_time(3600)
    assert [task.status.state for task in swarm.tasks()] == [TaskState.COMPLETE]
    swarm.scale("web", 2)
    swarm.settle()
    assert [task.slot for task in swarm.running()] == [2]
    swarm.scale("web", 1)
    swarm.settle()
    assert [task.slot for task in swarm.running()] == [2], "the slot that has ended goes first"


def test_removing_a_service_removes_its_tasks_and_its_templates() -> None:
    swarm = Swarm(2)
    service = swarm.create_service(replicas=3)
    swarm.settle()
    swarm.remove_service("web")
    swarm.settle(agents=False)
    assert {task.desired_state for task in swarm.tasks()} == {TaskState.REMOVE}
    assert swarm.state.specs_of(service.id), "a template stays while a task refers to it"
    swarm.settle()
    assert swarm.tasks() == []
    assert not swarm.state.specs_of(service.id)


def test_a_large_service_is_written_in_transactions_within_the_bounds() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=4500)
    flights = swarm.plan()
    assert len(flights) == 3
    assert max(len(flight.ops) for flight in flights) <= 2000
    swarm.settle()
    assert len(swarm.running()) == 4500
