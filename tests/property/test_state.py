"""Any sequence of transactions: equal on every manager, whole or nothing, indexes true."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.kit.model.ids import NodeId, ServiceId, TaskId, spec_version_id
from services.kit.model.objects import Node, Object, Service, SpecVersion, Task, TaskStatus
from services.kit.model.specs import Annotations, EndpointSpec, PortConfig, ServiceSpec, TaskSpec
from services.kit.model.states import TaskState
from services.kit.state.state import State
from services.kit.state.transaction import ANY_VERSION, Op, Transaction, create, remove, update

services = st.builds(
    lambda n, name, port: Service(
        id=ServiceId(f"s{n}"),
        spec=ServiceSpec(
            annotations=Annotations(name=name),
            endpoint=EndpointSpec(ports=(PortConfig(target_port=80, published_port=port),) if port else ()),
        ),
    ),
    st.integers(0, 3),
    st.sampled_from(["web", "Web", "shop"]),
    st.sampled_from([0, 80, 81]),
)
templates = st.builds(
    lambda n, v: SpecVersion(
        id=spec_version_id(ServiceId(f"s{n}"), v),
        service_id=ServiceId(f"s{n}"),
        version=v,
        annotations=Annotations(),
        task=TaskSpec(),
    ),
    st.integers(0, 3),
    st.integers(1, 2),
)
tasks = st.builds(
    lambda n, s, v, node, state, wanted: Task(
        id=TaskId(f"t{n}"),
        service_id=ServiceId(f"s{s}"),
        spec_version=v,
        node_id=node,
        status=TaskStatus(state=state),
        desired_state=wanted,
    ),
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(1, 2),
    st.sampled_from([None, NodeId("n0"), NodeId("n1")]),
    st.sampled_from([TaskState.NEW, TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED]),
    st.sampled_from([TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]),
)
nodes = st.builds(lambda n: Node(id=NodeId(f"n{n}")), st.integers(0, 1))
objects: st.SearchStrategy[Object] = st.one_of(services, templates, tasks, nodes)
bases = st.one_of(st.just(ANY_VERSION), st.integers(0, 12))
ops = st.one_of(
    objects.map(create),
    st.builds(lambda thing, base: update(thing, base=base), objects, bases),
    st.builds(lambda thing, base: remove(thing, base=base), objects, bases),
)
scripts = st.lists(st.lists(ops, min_size=1, max_size=4), max_size=14)


def transactions(script: list[list[Op]]) -> list[Transaction]:
    return [Transaction(client="c", sequence=n, at=float(n), ops=tuple(group)) for n, group in enumerate(script)]


@given(scripts)
def test_two_managers_and_a_replica_end_equal(script: list[list[Op]]) -> None:
    one, two, replica = State(), State(), State()
    for transaction in transactions(script):
        result, changes = one.apply(transaction)
        assert two.apply(msgspec.msgpack.decode(msgspec.msgpack.encode(transaction), type=Transaction)) == (
            result,
            changes,
        )
        if result.conflict is None:
            replica.absorb(result.version, changes, transaction.at)
    by_id = {(change.table, change.id): change for change in one.full()}
    assert list(one.full()) == list(two.full())
    assert {(change.table, change.id): change for change in replica.full()} == by_id


@given(scripts)
def test_a_refused_transaction_leaves_no_trace(script: list[list[Op]]) -> None:
    state = State()
    for transaction in transactions(script):
        before = {(change.table, change.id): change for change in state.full()}, state.version
        result, changes = state.apply(transaction)
        if result.conflict is not None:
            assert not changes
            assert ({(change.table, change.id): change for change in state.full()}, state.version) == before


@given(scripts)
def test_indexes_say_what_a_scan_would_say(script: list[list[Op]]) -> None:
    state = State()
    for transaction in transactions(script):
        state.apply(transaction)
    for service_id in {task.service_id for task in state.tasks.values()}:
        scanned = {task.id for task in state.tasks.values() if task.service_id == service_id}
        assert set(state.tasks_of_service(service_id)) == scanned
    for node_id in ("n0", "n1"):
        scanned = {task.id for task in state.tasks.values() if task.node_id == node_id}
        assert set(state.tasks_of_node(NodeId(node_id))) == scanned
    names = [service.spec.annotations.name.lower() for service in state.services.values()]
    assert len(names) == len(set(names))
    for service in state.services.values():
        assert state.service_named(service.spec.annotations.name) == service
        assert state.ports.rival(service) is None
