"""The enforcer: tasks leave a node that does not fit them any more."""

from __future__ import annotations

import msgspec
import pytest

from services.dispatcher.core.fitness import NO_LONGER_HAS, NO_LONGER_MEETS
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node, Task
from services.kit.model.specs import (
    Annotations,
    GenericResource,
    NodeSpec,
    Placement,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    TaskSpec,
)
from services.kit.model.states import Availability, RestartCondition, Role, TaskState
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace


def node_of(swarm: Swarm, name: str) -> Node:
    return swarm.state.nodes[NodeId(name)]


def with_resources(swarm: Swarm, name: str, **resources: object) -> None:
    description = node_of(swarm, name).description
    swarm.change_node(name, description=_replace(description, resources=_replace(description.resources, **resources)))


def evicted(swarm: Swarm) -> list[Task]:
    return swarm.tasks(where=lambda task: bool(task.reason))


def labelled(label: str) -> NodeSpec:
    return NodeSpec(annotations=Annotations(labels={"disk": label}))


def test_a_task_leaves_when_its_nodes_label_changes_and_comes_back_elsewhere() -> None:
    swarm = Swarm(2)
    for name in ("n1", "n2"):
        swarm.change_node(name, spec=labelled("ssd"))
    task = TaskSpec(driver="fake", placement=Placement(constraints=("node.labels.disk==ssd",)))
    swarm.create_service(a_service_spec(replicas=2, task=task))
    swarm.settle()
    swarm.change_node("n1", spec=labelled("hdd"))
    swarm.settle()
    assert [(task.node_id, task.reason) for task in evicted(swarm)] == [("n1", NO_LONGER_MEETS)]
    assert [task.node_id for task in swarm.running()] == ["n2", "n2"]


def test_a_task_leaves_when_its_node_changes_its_role() -> None:
    swarm = Swarm(2)
    task = TaskSpec(driver="fake", placement=Placement(constraints=("node.role==worker",)))
    swarm.create_service(a_service_spec(replicas=2, task=task))
    swarm.settle()
    swarm.change_node("n1", role=Role.MANAGER)
    swarm.settle()
    assert [task.node_id for task in swarm.running()] == ["n2", "n2"]


def reserving(memory_bytes: int = 0, generic: tuple[GenericResource, ...] = ()) -> TaskSpec:
    reservations = Resources(memory_bytes=memory_bytes, generic=generic)
    return TaskSpec(driver="fake", resources=ResourceRequirements(reservations=reservations))


def test_when_memory_shrinks_the_oldest_tasks_stay() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(replicas=4, task=reserving(4 << 30)))
    swarm.settle()
    first = sorted(swarm.running(), key=lambda task: task.id)[:2]
    with_resources(swarm, "n1", memory_bytes=9 << 30)
    swarm.settle()
    assert sorted(task.id for task in swarm.running()) == [task.id for task in first]
    assert {task.reason for task in evicted(swarm)} == {NO_LONGER_HAS}


def test_a_completed_jobs_task_neither_counts_nor_leaves() -> None:
    swarm = Swarm(1)
    mode = ReplicatedJob(max_concurrent=2, total_completions=2)
    swarm.create_service(a_service_spec("job", mode=mode, task=reserving(8 << 30)))
    swarm.settle()
    for task in swarm.tasks("job"):
        swarm.end_task(task, TaskState.COMPLETE)
    swarm.settle()
    swarm.create_service(a_service_spec(task=reserving(8 << 30)))
    swarm.settle()
    with_resources(swarm, "n1", memory_bytes=8 << 30)
    swarm.settle()
    assert len(swarm.running()) == 1
    assert [task.reason for task in swarm.tasks("job")] == ["", ""]


@pytest.mark.parametrize(
    "left",
    [
        GenericResource(kind="gpu", names=("a",)),
        GenericResource(kind="gpu", count=1),
        GenericResource(kind="fpga", count=9),
    ],
)
def test_a_task_leaves_when_what_it_was_dealt_is_gone(left: GenericResource) -> None:
    swarm = Swarm(1)
    named = GenericResource(kind="gpu", names=("a", "b"))
    with_resources(swarm, "n1", generic=(named,))
    swarm.create_service(a_service_spec(replicas=2, task=reserving(generic=(GenericResource(kind="gpu", count=1),))))
    swarm.settle()
    assert len(swarm.running()) == 2
    with_resources(swarm, "n1", generic=(left,))
    swarm.settle()
    kept = [task.generic[0].names for task in swarm.running() if not task.reason]
    assert kept == ([("a",)] if left.names else kept)
    assert len(evicted(swarm)) == (1 if left.names else 2)


def test_the_services_constraints_count_for_tasks_of_an_older_version() -> None:
    swarm = Swarm(2)
    for name in ("n1", "n2"):
        swarm.change_node(name, spec=labelled("ssd"))
    swarm.create_service(a_service_spec(replicas=2))
    swarm.settle()
    task = TaskSpec(driver="fake", container=swarm.service().spec.task.container)
    constrained = _replace(task, placement=Placement(constraints=("node.labels.disk==ssd",)))
    swarm.update_service("web", _replace(swarm.service().spec, task=constrained))
    swarm.settle()
    assert {task.spec_version for task in swarm.running()} == {1}, "a change of placement restarts nothing that fits"
    swarm.change_node("n1", spec=labelled("hdd"))
    swarm.pass_time(10)
    assert {task.node_id for task in swarm.running()} == {"n2"}


def test_a_task_that_must_not_be_restarted_leaves_and_is_not_replaced() -> None:
    swarm = Swarm(2)
    task = TaskSpec(
        driver="fake",
        placement=Placement(constraints=("node.role==worker",)),
        restart=RestartPolicy(condition=RestartCondition.NONE),
    )
    swarm.create_service(a_service_spec(replicas=2, task=task))
    swarm.settle()
    swarm.change_node("n1", role=Role.MANAGER)
    swarm.settle()
    assert [task.node_id for task in swarm.running()] == ["n2"]


def test_a_paused_node_keeps_what_does_not_fit() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(task=reserving(8 << 30)))
    swarm.settle()
    swarm.change_node("n1", spec=NodeSpec(availability=Availability.PAUSE))
    with_resources(swarm, "n1", memory_bytes=1 << 30)
    swarm.settle()
    assert len(swarm.running()) == 1


def test_a_new_leader_evicts_what_the_last_one_did_not() -> None:
    swarm = Swarm(2)
    swarm.create_service(a_service_spec(replicas=2, task=reserving(8 << 30)))
    swarm.settle()
    del swarm.planning
    with_resources(swarm, "n1", memory_bytes=1 << 30)
    swarm.become_leader()
    swarm.settle()
    assert [task.node_id for task in swarm.running()] == ["n2", "n2"]
