"""``why`` agrees with a check of every node by hand, which shares nothing with the scheduler's index."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dispatcher.core.desk import Desk
from services.dispatcher.core.inquiry.answers import why
from services.dispatcher.core.inquiry.placing import Placings
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node, Task
from services.kit.model.specs import (
    Annotations,
    EndpointSpec,
    NodeSpec,
    Placement,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    TaskSpec,
)
from services.kit.model.states import Availability, NodeState, PublishMode, TaskState
from services.kit.state.transaction import create
from tests.support.convergence import Swarm, a_node, a_service_spec

_replace = msgspec.structs.replace
GIB = 1 << 30

Shape = tuple[NodeState, Availability, int, str, str, tuple[str, ...]]
Wish = tuple[int, str, str, bool, int]

nodes = st.lists(
    st.builds(
        lambda state, availability, memory, disk, arch, drivers: (state, availability, memory, disk, arch, drivers),
        st.sampled_from([NodeState.READY, NodeState.READY, NodeState.READY, NodeState.DOWN, NodeState.UNKNOWN]),
        st.sampled_from([Availability.ACTIVE, Availability.ACTIVE, Availability.PAUSE, Availability.DRAIN]),
        st.integers(1, 6),
        st.sampled_from(["ssd", "hdd", ""]),
        st.sampled_from(["x86_64", "arm64"]),
        st.sampled_from([("fake",), ("fake", "process"), ("process",)]),
    ),
    max_size=6,
)
demands = st.builds(
    lambda memory, disk, arch, port, most: (memory, disk, arch, port, most),
    st.integers(0, 4),
    st.sampled_from(["", "node.labels.disk==ssd", "node.labels.disk!=ssd"]),
    st.sampled_from(["", "amd64", "aarch64"]),
    st.booleans(),
    st.integers(0, 2),
)


def swarm_of(shapes: list[Shape]) -> Swarm:
    swarm = Swarm(0)
    for index, (state, availability, memory, disk, arch, drivers) in enumerate(shapes):
        node = a_node(f"n{index}", memory_bytes=memory * GIB)
        labels = {"disk": disk} if disk else {}
        description = _replace(node.description, platform=Platform(architecture=arch, os="linux"), drivers=drivers)
        spec = NodeSpec(availability=availability, annotations=Annotations(labels=labels))
        status = _replace(node.status, state=state)
        swarm.write(create(_replace(node, description=description, spec=spec, status=status)))
        swarm.obedient.add(NodeId(f"n{index}"))
    return swarm


def ask_for(swarm: Swarm, name: str, replicas: int, demand: Wish) -> None:
    memory, constraint, arch, port, most = demand
    placement = Placement(
        constraints=(constraint,) if constraint else (),
        platforms=(Platform(architecture=arch, os="linux"),) if arch else (),
        max_replicas=most,
    )
    reservations = Resources(memory_bytes=memory * GIB)
    task = TaskSpec(driver="fake", placement=placement, resources=ResourceRequirements(reservations=reservations))
    ports = (PortConfig(target_port=80, published_port=80, publish_mode=PublishMode.HOST),) if port else ()
    swarm.create_service(a_service_spec(name, replicas=replicas, task=task, endpoint=EndpointSpec(ports=ports)))
    swarm.settle()


def holds(swarm: Swarm, node: Node) -> list[Task]:
    live = swarm.state.tasks_of_node(node.id).values()
    return [task for task in live if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING]


def first_refusal(swarm: Swarm, node: Node, name: str, demand: Wish) -> str:
    """Return why a node may not have one more task, nothing when it may."""
    memory, constraint, arch, port, most = demand
    if node.status.state is not NodeState.READY or node.spec.availability is not Availability.ACTIVE:
        return "not available"
    held = holds(swarm, node)
    specs = [swarm.state.spec(task.service_id, task.spec_version) for task in held]
    used = sum(spec.task.resources.reservations.memory_bytes for spec in specs if spec is not None)
    if memory and used + memory * GIB > node.description.resources.memory_bytes:
        return "insufficient resources"
    if "fake" not in node.description.drivers:
        return "missing plugin"
    disk = node.spec.annotations.labels.get("disk", "")
    if (constraint.endswith("==ssd") and disk != "ssd") or (constraint.endswith("!=ssd") and disk == "ssd"):
        return "constraints not satisfied"
    mine = {"x86_64": "amd64", "arm64": "arm64"}[node.description.platform.architecture]
    if arch and {"amd64": "amd64", "aarch64": "arm64"}[arch] != mine:
        return "unsupported platform"
    if port and any(spec is not None and spec.endpoint.ports for spec in specs):
        return "port already in use"
    wanted = [t for t in held if t.service_id == f"id-{name}" and t.desired_state <= TaskState.COMPLETE]
    if most and len(wanted) >= most:
        return "max replicas"
    return ""


@settings(max_examples=150, deadline=None, print_blob=True)
@given(nodes, demands, demands, st.integers(0, 4), st.integers(1, 6))
def test_a_pending_task_is_explained_as_a_check_of_every_node_would(
    shapes: list[Shape],
    others: Wish,
    demand: Wish,
    before: int,
    replicas: int,
) -> None:
    swarm = swarm_of(shapes)
    ask_for(swarm, "other", before, others)
    ask_for(swarm, "web", replicas, demand)
    pending = swarm.tasks(where=lambda task: task.status.state is TaskState.PENDING)
    by_hand = Counter(
        refusal for node in swarm.state.nodes.values() if (refusal := first_refusal(swarm, node, "web", demand))
    )
    if not pending:
        return
    placing = Placings(Desk(swarm.state)).of(pending[0])
    assert placing is not None
    told = {refusal.reason: refusal.nodes for refusal in placing.refusals}
    assert sum(told.values()) == sum(by_hand.values())
    for reason, count in by_hand.items():
        assert [number for text, number in told.items() if reason in text] == [count], (reason, told)
    assert placing.fitting == len(shapes) - sum(by_hand.values()) == 0, "what fits is placed"
    if shapes:
        assert placing.nearest is not None
        assert placing.nearest.lacks
    reply = why(Desk(swarm.state), "web", swarm.now)
    assert any(finding.refusals == placing.refusals for finding in reply.findings)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(nodes, demands, st.integers(1, 4))
def test_nothing_is_found_exactly_when_everything_runs(shapes: list[Shape], demand: Wish, replicas: int) -> None:
    swarm = swarm_of(shapes)
    ask_for(swarm, "web", replicas, demand)
    reply = why(Desk(swarm.state), "web", swarm.now)
    assert (reply.findings == ()) == (len(swarm.running()) == replicas)
