"""Moving tasks to nodes that have joined: only with leave, start-first, a few at a time, and never twice."""

from __future__ import annotations

from collections import Counter

import msgspec

from services.kit.model.specs import NodeSpec, Placement, ResourceRequirements, Resources, SchedulingConfig, TaskSpec
from services.kit.model.states import Availability, TaskState
from services.kit.state.transaction import update
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace
GIB = 1 << 30


def swarm_with(nodes: int, *, moves_max: int = 2) -> Swarm:
    swarm = Swarm(nodes)
    cluster = swarm.state.cluster
    assert cluster is not None
    spec = _replace(cluster.spec, scheduling=SchedulingConfig(moves_max=moves_max, moves_interval_s=10))
    swarm.write(update(_replace(cluster, spec=spec)))
    return swarm


def homes(swarm: Swarm, name: str = "web") -> Counter[str]:
    return Counter(str(task.node_id) for task in swarm.running(name))


def test_a_node_that_joins_gets_tasks_a_few_at_a_time_and_no_slot_is_ever_without_one() -> None:
    swarm = swarm_with(2)
    swarm.create_service(a_service_spec(replicas=12, rebalance=True))
    swarm.settle()
    swarm.add_node("n3")
    for _ in range(40):
        swarm.settle()
        assert {task.slot for task in swarm.running()} == set(range(1, 13))
        assert len(swarm.running()) <= 14
        swarm.pass_time(2)
    assert homes(swarm) == {"n1": 4, "n2": 4, "n3": 4}
    seen = {task.id for task in swarm.tasks()}
    swarm.pass_time(300)
    assert {task.id for task in swarm.tasks()} == seen


def test_nothing_moves_without_leave_of_the_service_and_of_the_cluster() -> None:
    for moves_max, agrees in ((0, True), (2, False)):
        swarm = swarm_with(1, moves_max=moves_max)
        swarm.create_service(a_service_spec(replicas=4, rebalance=agrees))
        swarm.settle()
        swarm.add_node("n2")
        swarm.pass_time(120)
        assert homes(swarm) == {"n1": 4}


def test_a_drained_node_that_returns_is_filled_again() -> None:
    swarm = swarm_with(2)
    swarm.create_service(a_service_spec(replicas=4, rebalance=True))
    swarm.settle()
    swarm.change_node("n2", spec=NodeSpec(availability=Availability.DRAIN))
    swarm.pass_time(30)
    assert homes(swarm) == {"n1": 4}
    swarm.change_node("n2", spec=NodeSpec())
    swarm.pass_time(120)
    assert homes(swarm) == {"n1": 2, "n2": 2}


def test_a_task_that_fails_at_its_new_place_leaves_the_old_one_running() -> None:
    swarm = swarm_with(1, moves_max=1)
    swarm.create_service(a_service_spec(replicas=2, rebalance=True))
    swarm.settle()
    first = {task.id for task in swarm.running()}
    swarm.behaviour = lambda task: TaskState.FAILED if task.node_id == "n2" else None
    swarm.add_node("n2")
    swarm.pass_time(25)
    assert {task.id for task in swarm.running()} == first


def test_what_needs_more_room_than_there_is_beside_it_stays() -> None:
    swarm = swarm_with(1)
    resources = ResourceRequirements(reservations=Resources(memory_bytes=6 * GIB))
    task = TaskSpec(driver="fake", resources=resources, placement=Placement(max_replicas=2))
    swarm.create_service(a_service_spec(replicas=2, task=task, rebalance=True))
    swarm.settle()
    swarm.add_node("n2", memory_bytes=GIB)
    swarm.pass_time(60)
    assert homes(swarm) == {"n1": 2}
    assert len(swarm.tasks()) == 2


def test_a_new_leader_finishes_a_move() -> None:
    swarm = swarm_with(1, moves_max=1)
    swarm.create_service(a_service_spec(replicas=2, rebalance=True))
    swarm.settle()
    swarm.add_node("n2")
    swarm.obedient.clear()
    swarm.pass_time(2)
    assert len(swarm.tasks()) == 3
    swarm.become_leader()
    swarm.obedient.update(swarm.state.nodes)
    swarm.pass_time(60)
    assert homes(swarm) == {"n1": 1, "n2": 1}
