"""Placement: which node gets a task, and the words for why none does."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node, Task
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    EndpointSpec,
    GenericResource,
    NodeSpec,
    Placement,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SpreadPreference,
    TaskSpec,
)
from services.kit.model.states import Availability, NodeState, PublishMode, TaskState
from tests.support.convergence import Swarm, a_node, a_service_spec

_replace = msgspec.structs.replace
GIB = 1 << 30


def needing(**fields: object) -> TaskSpec:
    return TaskSpec(driver="fake", resources=ResourceRequirements(reservations=Resources(**fields)))  # type: ignore[arg-type]


def placed(**fields: object) -> TaskSpec:
    return TaskSpec(driver="fake", placement=Placement(**fields))  # type: ignore[arg-type]


def homes(swarm: Swarm, name: str = "web") -> Counter[str]:
    return Counter(str(task.node_id) for task in swarm.running(name))


def only_error(swarm: Swarm, name: str = "web") -> str:
    errors = {task.status.error for task in swarm.tasks(name) if task.status.state is TaskState.PENDING}
    assert len(errors) == 1
    return errors.pop()


def labelled(name: str, **labels: str) -> Node:
    return a_node(name, spec=NodeSpec(annotations=Annotations(labels=labels)))


def swarm_of(*nodes: Node) -> Swarm:
    swarm = Swarm(0)
    for node in nodes:
        swarm.add_node(node.id, **{f: getattr(node, f) for f in ("spec", "description", "status")})
    swarm.settle()
    return swarm


def test_services_are_spread_each_by_itself_and_then_in_total() -> None:
    swarm = Swarm(3)
    swarm.create_service(a_service_spec("one", replicas=4))
    swarm.settle()
    swarm.create_service(a_service_spec("two", replicas=2))
    swarm.settle()
    assert sorted(homes(swarm, "one").values()) == [1, 1, 2]
    both = homes(swarm, "one") + homes(swarm, "two")
    assert set(both.values()) == {2}


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        (NodeSpec(availability=Availability.PAUSE), NodeState.READY),
        (NodeSpec(availability=Availability.DRAIN), NodeState.READY),
        (NodeSpec(), NodeState.DOWN),
        (NodeSpec(), NodeState.UNKNOWN),
        (NodeSpec(), NodeState.DISCONNECTED),
    ],
)
def test_only_ready_active_nodes_get_tasks_and_the_rest_wait_for_one(spec: NodeSpec, state: NodeState) -> None:
    swarm = Swarm(1)
    swarm.change_node("n1", spec=spec, status=_replace(a_node("n1").status, state=state))
    swarm.create_service(replicas=2)
    swarm.settle()
    assert only_error(swarm) == "no suitable node (1 node not available for new tasks)"
    swarm.change_node("n1", spec=NodeSpec(), status=a_node("n1").status)
    swarm.settle()
    assert homes(swarm) == {"n1": 2}
    assert {task.status.error for task in swarm.running()} == {""}


def test_without_any_node_there_is_nothing_to_explain() -> None:
    swarm = Swarm(0)
    swarm.create_service()
    swarm.settle()
    assert only_error(swarm) == "no suitable node"


def test_reservations_are_kept_until_the_task_has_really_ended() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(replicas=3, task=needing(memory_bytes=6 * GIB)))
    swarm.settle()
    assert homes(swarm) == {"n1": 2}
    assert only_error(swarm) == "no suitable node (insufficient resources on 1 node)"
    swarm.obedient.clear()
    swarm.scale("web", 1)
    swarm.create_service(a_service_spec("next", task=needing(memory_bytes=6 * GIB)))
    swarm.settle()
    assert only_error(swarm, "next") == "no suitable node (insufficient resources on 1 node)"
    swarm.obedient.update(swarm.state.nodes)
    swarm.settle()
    assert homes(swarm, "next") == {"n1": 1}


def test_a_node_without_the_driver_is_named_as_missing_the_plugin() -> None:
    swarm = Swarm(2)
    swarm.create_service(a_service_spec(task=TaskSpec(driver="docker", container=ContainerSpec(image="x"))))
    swarm.settle()
    assert only_error(swarm) == "no suitable node (missing plugin on 2 nodes)"


def test_constraints_choose_nodes_and_follow_their_labels() -> None:
    swarm = swarm_of(labelled("n1", disk="ssd"), labelled("n2", disk="hdd"))
    swarm.create_service(a_service_spec(replicas=3, task=placed(constraints=("node.labels.disk==ssd",))))
    swarm.create_service(a_service_spec("none", task=placed(constraints=("node.labels.disk==tape",))))
    swarm.settle()
    assert homes(swarm) == {"n1": 3}
    assert only_error(swarm, "none") == "no suitable node (scheduling constraints not satisfied on 2 nodes)"
    swarm.change_node("n2", spec=labelled("n2", disk="tape").spec)
    swarm.settle()
    assert homes(swarm, "none") == {"n2": 1}


def test_platforms_have_aliases_and_wildcards() -> None:
    swarm = Swarm(1)
    for name, platform in (
        ("alias", Platform(architecture="amd64", os="linux")),
        ("wild", Platform(os="linux")),
        ("other", Platform(architecture="arm64", os="linux")),
    ):
        swarm.create_service(a_service_spec(name, task=placed(platforms=(platform,))))
    swarm.settle()
    assert homes(swarm, "alias") == homes(swarm, "wild") == {"n1": 1}
    assert only_error(swarm, "other") == "no suitable node (unsupported platform on 1 node)"


def test_a_host_mode_port_is_used_once_a_node() -> None:
    swarm = Swarm(2)
    endpoint = EndpointSpec(ports=(PortConfig(target_port=80, published_port=80, publish_mode=PublishMode.HOST),))
    swarm.create_service(a_service_spec(replicas=3, endpoint=endpoint))
    swarm.settle()
    assert homes(swarm) == {"n1": 1, "n2": 1}
    assert only_error(swarm) == "no suitable node (host-mode port already in use on 2 nodes)"


def test_max_replicas_bounds_the_tasks_of_a_node() -> None:
    swarm = Swarm(2)
    swarm.create_service(a_service_spec(replicas=5, task=placed(max_replicas=2)))
    swarm.settle()
    assert homes(swarm) == {"n1": 2, "n2": 2}
    assert only_error(swarm) == "no suitable node (max replicas per node limit exceed)"


def test_refusals_are_counted_and_the_most_frequent_comes_first() -> None:
    small = a_node("n1", memory_bytes=GIB)
    drained = a_node("n2", spec=NodeSpec(availability=Availability.DRAIN))
    swarm = swarm_of(small, _replace(small, id=NodeId("n3")), drained)
    swarm.create_service(a_service_spec(task=needing(memory_bytes=4 * GIB)))
    swarm.settle()
    expected = "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)"
    assert only_error(swarm) == expected


def test_named_resources_are_dealt_recorded_and_restored() -> None:
    node = a_node("n1")
    resources = _replace(node.description.resources, generic=(GenericResource(kind="gpu", names=("a", "b", "c")),))
    swarm = swarm_of(_replace(node, description=_replace(node.description, resources=resources)))
    swarm.create_service(a_service_spec(replicas=3, task=needing(generic=(GenericResource(kind="gpu", count=1),))))
    swarm.settle()
    assert sorted(task.generic[0].names for task in swarm.running()) == [("a",), ("b",), ("c",)]
    held = swarm.running()[1]
    swarm.become_leader()
    swarm.settle()
    swarm.scale("web", 4)
    swarm.settle()
    assert only_error(swarm) == "no suitable node (insufficient resources on 1 node)"
    swarm.end_task(held, TaskState.FAILED)
    swarm.pass_time(10)
    assert sorted(task.generic[0].names for task in swarm.running()) == [("a",), ("b",), ("c",)]


def test_preferences_spread_over_the_values_of_a_label_first() -> None:
    swarm = swarm_of(
        labelled("n1", zone="a"), labelled("n2", zone="a"), labelled("n3", zone="a"), labelled("n4", zone="b")
    )
    preferences = (SpreadPreference(descriptor="node.labels.zone"),)
    swarm.create_service(a_service_spec(replicas=6, task=placed(preferences=preferences)))
    swarm.settle()
    assert homes(swarm) == {"n1": 1, "n2": 1, "n3": 1, "n4": 3}


def test_a_full_branch_leaves_the_rest_to_the_others() -> None:
    swarm = swarm_of(labelled("n1", zone="a"), labelled("n2", zone="b"))
    task = placed(preferences=(SpreadPreference(descriptor="node.labels.zone"),), constraints=("node.id!=n2",))
    swarm.create_service(a_service_spec(replicas=4, task=task))
    swarm.settle()
    assert homes(swarm) == {"n1": 4}


def test_a_node_on_which_a_version_failed_five_times_comes_last_until_the_version_changes() -> None:
    swarm = Swarm(2)
    swarm.behaviour = lambda task: TaskState.FAILED if task.node_id == "n1" else None
    swarm.create_service(replicas=1, restart=RestartPolicy(delay_s=0))
    swarm.create_service(a_service_spec("ballast", replicas=0))
    swarm.pass_time(1)
    # The task moves to the other node only because the first one counts as faulty: it has no tasks.
    assert homes(swarm) == {"n2": 1}
    failed: list[Task] = swarm.tasks(where=lambda task: task.status.state is TaskState.FAILED)
    assert {task.node_id for task in failed} == {"n1"}


def test_a_node_that_joins_takes_what_waits() -> None:
    swarm = Swarm(0)
    swarm.create_service(replicas=3)
    swarm.settle()
    swarm.add_node("n1")
    swarm.settle()
    assert homes(swarm) == {"n1": 3}


def test_tasks_that_are_to_stop_are_not_placed() -> None:
    swarm = Swarm(0)
    swarm.create_service(replicas=3)
    swarm.settle()
    swarm.scale("web", 1)
    swarm.add_node("n1")
    swarm.settle()
    assert homes(swarm) == {"n1": 1}
    assert len(swarm.tasks()) == 1
