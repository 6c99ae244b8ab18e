"""Global services: one task on every node that fits, none elsewhere."""

from __future__ import annotations

import msgspec
import pytest

from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Meta
from services.kit.model.specs import Global, NodeSpec, Placement, RestartPolicy, TaskSpec
from services.kit.model.states import Availability, NodeState, RestartCondition, TaskState
from services.kit.state.transaction import create, remove, update
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace


def swarm_with(nodes: int = 3, **fields: object) -> Swarm:
    swarm = Swarm(nodes)
    swarm.create_service(a_service_spec(mode=Global(), **fields))  # type: ignore[arg-type]
    swarm.settle()
    return swarm


def homes(swarm: Swarm) -> list[str]:
    return sorted(str(task.node_id) for task in swarm.running())


def test_every_node_gets_one_task_and_so_does_one_that_joins() -> None:
    swarm = swarm_with()
    assert homes(swarm) == ["n1", "n2", "n3"]
    swarm.add_node("n4")
    swarm.settle()
    assert homes(swarm) == ["n1", "n2", "n3", "n4"]


def test_only_nodes_that_meet_the_constraints_get_a_task() -> None:
    placement = Placement(constraints=("node.hostname!=n2",))
    swarm = swarm_with(task=TaskSpec(driver="fake", placement=placement))
    assert homes(swarm) == ["n1", "n3"]


def test_a_drained_node_gives_its_task_up_and_gets_one_when_it_is_active_again() -> None:
    swarm = swarm_with()
    swarm.change_node("n1", spec=NodeSpec(availability=Availability.DRAIN))
    swarm.settle()
    assert homes(swarm) == ["n2", "n3"]
    swarm.change_node("n1", spec=NodeSpec())
    swarm.settle()
    assert homes(swarm) == ["n1", "n2", "n3"]


def test_a_paused_node_keeps_its_task() -> None:
    swarm = swarm_with()
    before = {task.id for task in swarm.running()}
    swarm.change_node("n1", spec=NodeSpec(availability=Availability.PAUSE))
    swarm.add_node("n4", spec=NodeSpec(availability=Availability.PAUSE))
    swarm.settle()
    assert {task.id for task in swarm.running()} == before


def test_a_node_that_comes_back_from_down_gets_its_task_again() -> None:
    swarm = swarm_with()
    swarm.lose_node("n1")
    swarm.settle()
    assert homes(swarm) == ["n2", "n3"]
    swarm.set_node_state("n1", NodeState.READY)
    swarm.obedient.add("n1")  # type: ignore[arg-type]
    swarm.settle()
    assert homes(swarm) == ["n1", "n2", "n3"]


def test_a_removed_nodes_task_goes() -> None:
    swarm = swarm_with()
    swarm.obedient.discard("n1")
    swarm.write(remove(swarm.state.nodes["n1"]))  # type: ignore[index]
    swarm.settle()
    assert {task.node_id for task in swarm.tasks()} == {"n2", "n3"}


@pytest.mark.parametrize(
    ("condition", "runs"), [(RestartCondition.ANY, 3), (RestartCondition.ON_FAILURE, 3), (RestartCondition.NONE, 2)]
)
def test_a_failed_task_is_restarted_on_its_node_as_the_policy_says(condition: RestartCondition, runs: int) -> None:
    swarm = swarm_with(restart=RestartPolicy(condition=condition, delay_s=0))
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(10)
    assert len(swarm.running()) == runs
    swarm.become_leader()
    swarm.pass_time(10)
    assert len(swarm.running()) == runs


def test_an_update_rolls_over_the_nodes() -> None:
    swarm = swarm_with()
    swarm.set_image("web", "v2")
    swarm.pass_time(60)
    assert swarm.images(swarm.running()) == ["v2"] * 3
    assert homes(swarm) == ["n1", "n2", "n3"]


def test_removing_the_service_removes_all() -> None:
    swarm = swarm_with()
    swarm.remove_service("web")
    swarm.settle()
    assert swarm.tasks() == []


def test_a_task_that_somebody_deleted_is_made_again_on_its_node() -> None:
    swarm = swarm_with()
    task = swarm.running()[0]
    swarm.write(remove(task))
    swarm.settle()
    assert homes(swarm) == ["n1", "n2", "n3"]
    assert task.id not in {each.id for each in swarm.tasks()}


def test_a_new_leader_puts_right_what_the_last_one_left() -> None:
    swarm = swarm_with(4)
    swarm.create_service(a_service_spec("gone", mode=Global()))
    swarm.settle()
    extra = _replace(swarm.running()[0], id=TaskId("extra"), meta=Meta())
    del swarm.planning
    swarm.write(create(extra))
    swarm.remove_service("gone")
    swarm.change_node("n2", spec=NodeSpec(availability=Availability.DRAIN))
    swarm.obedient.discard(NodeId("n3"))
    swarm.write(remove(swarm.state.nodes[NodeId("n3")]))
    failed = next(task for task in swarm.running() if task.node_id == "n4")
    swarm.write(update(_replace(failed, status=_replace(failed.status, state=TaskState.FAILED))))
    swarm.become_leader()
    swarm.pass_time(20)
    assert homes(swarm) == ["n1", "n4"]
    assert swarm.tasks("gone") == []
    assert {task.node_id for task in swarm.tasks()} <= {"n1", "n2", "n4"}


def test_of_two_tasks_on_a_node_one_stays() -> None:
    swarm = swarm_with()
    extra = _replace(swarm.running()[0], id=TaskId("zzz"), meta=Meta())
    swarm.write(create(extra))
    swarm.settle()
    swarm.become_leader()
    swarm.settle()
    assert homes(swarm) == ["n1", "n2", "n3"]
