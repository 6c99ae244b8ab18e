"""The store's state: transactions take effect whole or not at all, and equal transactions make equal states."""

from __future__ import annotations

import msgspec
import pytest

from services.kit.model.ids import NodeId, ServiceId, TaskId, spec_version_id
from services.kit.model.objects import Node, Service, SpecVersion, Task, TaskStatus
from services.kit.model.specs import Annotations, EndpointSpec, PortConfig, ServiceSpec, TaskSpec
from services.kit.model.states import PublishMode, TaskState
from services.kit.state.state import State
from services.kit.state.tables import Table
from services.kit.state.transaction import ANY_VERSION, Action, ConflictReason, Op, Transaction, create, remove, update


class Writer:
    """Applies transactions of one client to a state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.sequence = 0

    def run(self, *ops: Op) -> ConflictReason | None:
        self.sequence += 1
        transaction = Transaction(client="writer", sequence=self.sequence, at=float(self.sequence), ops=ops)
        result, _ = self.state.apply(transaction)
        return None if result.conflict is None else result.conflict.reason


def service(name: str = "web", *ports: PortConfig) -> Service:
    spec = ServiceSpec(annotations=Annotations(name=name), endpoint=EndpointSpec(ports=ports))
    return Service(id=ServiceId(f"id-{name}"), spec=spec)


def template(of: Service, version: int = 1) -> SpecVersion:
    return SpecVersion(
        id=spec_version_id(of.id, version),
        service_id=of.id,
        version=version,
        annotations=of.spec.annotations,
        task=TaskSpec(),
    )


def task(of: Service, name: str = "t1", **fields: object) -> Task:
    return msgspec.structs.replace(Task(id=TaskId(name), service_id=of.id, spec_version=1), **fields)


def stored_task(state: State, name: str = "t1") -> Task:
    return state.tasks[TaskId(name)]


@pytest.fixture
def writer() -> Writer:
    return Writer(State())


def test_each_applied_transaction_makes_the_next_version_and_stamps_its_objects(writer: Writer) -> None:
    web = service()
    assert writer.run(create(web), create(template(web))) is None
    assert writer.run(create(task(web))) is None
    assert writer.state.version == 2
    assert stored_task(writer.state).meta.version == 2
    assert stored_task(writer.state).meta.created_at == 2.0


def test_an_update_keeps_the_time_of_creation(writer: Writer) -> None:
    writer.run(create(service()))
    stored = writer.state.services[ServiceId("id-web")]
    assert writer.run(update(stored)) is None
    again = writer.state.services[ServiceId("id-web")]
    assert (again.meta.created_at, again.meta.updated_at) == (1.0, 2.0)


def test_a_transaction_that_conflicts_changes_nothing(writer: Writer) -> None:
    web = service()
    before = list(writer.state.full())
    assert writer.run(create(web), create(task(web))) is ConflictReason.REFERENCE
    assert list(writer.state.full()) == before
    assert writer.state.version == 0
    assert writer.state.service_named("web") is None


def test_an_update_based_on_an_old_version_is_refused(writer: Writer) -> None:
    writer.run(create(service()))
    stored = writer.state.services[ServiceId("id-web")]
    assert writer.run(update(stored)) is None
    assert writer.run(update(stored)) is ConflictReason.VERSION
    assert writer.run(update(stored, base=ANY_VERSION)) is None


def test_a_missing_object_can_be_neither_updated_nor_removed(writer: Writer) -> None:
    assert writer.run(update(service())) is ConflictReason.MISSING
    assert writer.run(remove(service())) is ConflictReason.MISSING


def test_names_are_unique_whatever_their_case_and_free_again_after_removal(writer: Writer) -> None:
    first = service("web")
    assert writer.run(create(first)) is None
    other = Service(id=ServiceId("other"), spec=ServiceSpec(annotations=Annotations(name="WEB")))
    assert writer.run(create(other)) is ConflictReason.NAME
    assert writer.run(remove(first, base=ANY_VERSION)) is None
    assert writer.run(create(other)) is None


def test_two_services_cannot_publish_one_ingress_port(writer: Writer) -> None:
    port = PortConfig(target_port=80, published_port=8080)
    assert writer.run(create(service("web", port))) is None
    assert writer.run(create(service("shop", port))) is ConflictReason.PORT


def test_two_services_may_publish_one_port_in_host_mode(writer: Writer) -> None:
    port = PortConfig(target_port=80, published_port=8080, publish_mode=PublishMode.HOST)
    assert writer.run(create(service("web", port))) is None
    assert writer.run(create(service("shop", port))) is None


@pytest.mark.parametrize("field", ["status", "desired_state"])
def test_a_task_never_goes_back(writer: Writer, field: str) -> None:
    web = service()
    running = task(web, status=TaskStatus(state=TaskState.RUNNING), desired_state=TaskState.SHUTDOWN)
    writer.run(create(web), create(template(web)), create(running))
    back: dict[str, object] = {"status": TaskStatus(state=TaskState.READY), "desired_state": TaskState.RUNNING}
    older = msgspec.structs.replace(stored_task(writer.state), **{field: back[field]})
    assert writer.run(update(older)) is ConflictReason.BACKWARD


def test_a_template_stays_while_a_task_refers_to_it(writer: Writer) -> None:
    web = service()
    writer.run(create(web), create(template(web)), create(task(web)))
    assert writer.run(remove(template(web), base=ANY_VERSION)) is ConflictReason.REFERENCE
    assert writer.run(remove(task(web), base=ANY_VERSION), remove(template(web), base=ANY_VERSION)) is None


def test_a_repeated_transaction_answers_as_before_and_runs_once(writer: Writer) -> None:
    transaction = Transaction(client="c", sequence=7, at=1.0, ops=(create(service()),))
    first, changes = writer.state.apply(transaction)
    again, no_changes = writer.state.apply(transaction)
    assert first == again
    assert changes
    assert not no_changes
    assert writer.state.version == 1


def test_bytes_that_are_no_object_are_refused_as_malformed(writer: Writer) -> None:
    junk = Op(action=Action.CREATE, table=Table.NODE, id="n", object=b"\xc1")
    assert writer.run(junk) is ConflictReason.MALFORMED
    liar = Op(action=Action.CREATE, table=Table.NODE, id="n", object=msgspec.msgpack.encode(Node(id=NodeId("m"))))
    assert writer.run(liar) is ConflictReason.MALFORMED


def test_a_replica_that_absorbs_every_change_equals_the_state(writer: Writer) -> None:
    replica = State()
    web = service()
    script = [(create(web), create(template(web))), (create(task(web)),), (remove(task(web), base=ANY_VERSION),)]
    for sequence, ops in enumerate(script):
        result, changes = writer.state.apply(Transaction(client="c", sequence=sequence, at=0.0, ops=ops))
        events = replica.absorb(result.version, changes, 0.0)
        assert [event.action for event in events] == [op.action for op in ops]
    assert list(replica.full()) == list(writer.state.full())
    assert replica.tasks_of_service(web.id) == {}


def test_tasks_are_found_by_service_and_by_node(writer: Writer) -> None:
    web = service()
    placed = task(web, node_id=NodeId("n1"))
    writer.run(create(web), create(template(web)), create(placed))
    assert set(writer.state.tasks_of_service(web.id)) == {TaskId("t1")}
    assert set(writer.state.tasks_of_node(NodeId("n1"))) == {TaskId("t1")}
    moved = msgspec.structs.replace(stored_task(writer.state), node_id=NodeId("n2"))
    writer.run(update(moved))
    assert not writer.state.tasks_of_node(NodeId("n1"))
    assert set(writer.state.tasks_of_node(NodeId("n2"))) == {TaskId("t1")}


def test_the_memory_of_answers_is_bounded_and_forgets_the_oldest_first() -> None:
    state = State()
    for sequence in range(2100):
        state.apply(Transaction(client="c", sequence=sequence, at=0.0, ops=()))
    assert state.sessions.recall("c", 0) is None
    assert state.sessions.recall("c", 2099) is not None
    for client in range(1100):
        state.apply(Transaction(client=f"c{client}", sequence=1, at=0.0, ops=()))
    assert state.sessions.recall("c", 2099) is None
