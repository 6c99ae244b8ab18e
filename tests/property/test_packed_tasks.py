"""Many tasks in one operation: whatever is packed has the very effect of the plain operations it stands for, on managers and replicas."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.model.ids import NodeId, ServiceId, TaskId, spec_version_id
from services.kit.model.objects import Node, PortStatus, SpecVersion, Task, TaskStatus
from services.kit.model.specs import Annotations, GenericResource, TaskSpec
from services.kit.model.states import TaskState
from services.kit.state.packed import PackedTasks, Packer, Seen, is_packable
from services.kit.state.state import State
from services.kit.state.tables import Table
from services.kit.state.transaction import (
    OPS_MAX,
    Action,
    ConflictReason,
    Op,
    Transaction,
    TxResult,
    create,
    update,
)
from services.kit.state.transaction import Change as Told

_replace = msgspec.structs.replace
SERVICES = tuple(ServiceId(f"s{number}") for number in range(3))
NODES = (None, NodeId("n0"), NodeId("n1"))

statuses = st.builds(
    TaskStatus,
    state=st.sampled_from([TaskState.NEW, TaskState.PENDING, TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED]),
    timestamp=st.sampled_from([0.0, 1.5]),
    message=st.sampled_from(["", "assigned", "started"]),
    error=st.sampled_from(["", "no suitable node"]),
    container_id=st.sampled_from(["", "c0"]),
    pid=st.sampled_from([0, 4711]),
    exit_code=st.sampled_from([None, 0, 137]),
    ports=st.sampled_from([(), (PortStatus(target_port=80, port=20000),)]),
    applied_by=st.sampled_from(["", "m0", "m1"]),
    applied_at=st.sampled_from([0.0, 2.5]),
    ran_s=st.sampled_from([0.0, 9.0]),
)
tasks = st.builds(
    Task,
    id=st.builds(lambda number: TaskId(f"t{number}"), st.integers(0, 7)),
    service_id=st.sampled_from(SERVICES),
    spec_version=st.integers(1, 2),
    slot=st.integers(0, 3),
    node_id=st.sampled_from(NODES),
    desired_state=st.sampled_from([TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN]),
    status=statuses,
    job_iteration=st.integers(0, 1),
    attempt=st.integers(0, 1),
    reason=st.sampled_from(["", "moved"]),
    generic=st.sampled_from([(), (GenericResource(kind="gpu", count=1, names=("g0",)),)]),
)


class Change(msgspec.Struct, frozen=True):
    """One write: what the task becomes, and how much of it is taken from what is there."""

    task: Task
    keeps: frozenset[str]
    stale: bool


KEPT = ("service_id", "spec_version", "slot", "job_iteration", "attempt", "status", "node_id", "generic", "reason")
changes = st.builds(
    Change, task=tasks, keeps=st.frozensets(st.sampled_from(KEPT)), stale=st.sampled_from([False] * 9 + [True])
)
scripts = st.lists(
    st.tuples(st.lists(changes, min_size=1, max_size=6, unique_by=lambda change: change.task.id), st.none() | statuses),
    max_size=10,
)


def begun() -> State:
    """Return a state with nodes and with the templates of two services."""
    state = State()
    specs = [
        SpecVersion(id=spec_version_id(s, v), service_id=s, version=v, annotations=Annotations(), task=TaskSpec())
        for s in SERVICES[:2]
        for v in (1, 2)
    ]
    ops = (*map(create, specs), *(create(Node(id=NodeId(name))) for name in ("n0", "n1")))
    state.apply(Transaction(client="setup", sequence=1, at=0.5, ops=ops))
    return state


def writes(state: State, script: tuple[list[Change], TaskStatus | None]) -> list[tuple[Task | None, Task]]:
    """Return the tasks before and after; ``script`` may give one status to all that change theirs."""
    found: list[tuple[Task | None, Task]] = []
    for change in script[0]:
        before, after = state.tasks.get(change.task.id), change.task
        if script[1] is not None:
            after = _replace(after, status=script[1])
        if before is not None:
            after = _replace(after, meta=before.meta, **{name: getattr(before, name) for name in change.keeps})
            if change.stale:
                before = _replace(before, meta=_replace(before.meta, version=before.meta.version - 1))
        found.append((None if change.stale and change.task.slot == 3 else before, after))
    return found


def plain(pairs: list[tuple[Task | None, Task]]) -> tuple[Op, ...]:
    return tuple(create(new) if old is None else update(new, base=old.meta.version) for old, new in pairs)


def packed(pairs: list[tuple[Task | None, Task]]) -> tuple[Op, ...]:
    packer, rest = Packer(), []
    for old, new in pairs:
        if old is None:
            packer.create(new)
        elif is_packable(old, new):
            packer.update(old, new)
        else:
            rest.append(update(new, base=old.meta.version))
    op = packer.op()
    return (*rest, *(() if op is None else (op,)))


def picture(state: State) -> tuple[object, ...]:
    """Return all that can be read of a state."""
    return (
        state.version,
        dict(state.tasks),
        {service: dict(state.tasks_of_service(service)) for service in SERVICES},
        {node: dict(state.tasks_of_node(node)) for node in NODES if node is not None},
    )


def run(state: State, number: int, ops: tuple[Op, ...]) -> tuple[TxResult, tuple[Told, ...]]:
    """Apply a transaction as it comes out of the log."""
    transaction = Transaction(client="c", sequence=number, at=float(number), ops=ops)
    return state.apply(msgspec.msgpack.decode(msgspec.msgpack.encode(transaction), type=Transaction))


@given(scripts)
def test_packed_writes_do_what_plain_ones_do(script: list[tuple[list[Change], TaskStatus | None]]) -> None:
    one, other, replica = begun(), begun(), begun()
    for number, part in enumerate(script):
        pairs = writes(one, part)
        expected, _ = run(one, number, plain(pairs))
        result, told = run(other, number, packed(pairs))
        assert (result.conflict is None) == (expected.conflict is None)
        before = dict(replica.tasks)
        for event in replica.absorb(result.version, told, float(number)):
            assert event.old == before.get(TaskId(event.object.id))
            assert event.action is (Action.CREATE if event.old is None else Action.UPDATE)
        assert picture(one) == picture(other) == picture(replica)


@given(scripts.filter(bool))
def test_a_refused_packed_write_leaves_no_trace_of_the_others(
    script: list[tuple[list[Change], TaskStatus | None]],
) -> None:
    state = begun()
    for number, part in enumerate(script):
        before = picture(state)
        ghost = Task(id=TaskId("ghost"), service_id=ServiceId("nobody"), spec_version=1)
        ops = (*packed(writes(state, part)), create(ghost))
        result, told = state.apply(Transaction(client="c", sequence=2 * number, at=1.0, ops=ops))
        assert result.conflict is not None
        assert not told
        assert picture(state) == before
        state.apply(Transaction(client="c", sequence=2 * number + 1, at=1.0, ops=packed(writes(state, part))))


def test_every_field_of_a_status_is_in_a_row() -> None:
    assert {*Seen.__struct_fields__, "applied_by", "applied_at"} == set(TaskStatus.__struct_fields__)


def a_pack(tasks: int) -> Op:
    packer = Packer()
    for number in range(tasks):
        packer.create(Task(id=TaskId(f"t{number}"), service_id=SERVICES[0], spec_version=1, node_id=NODES[1]))
    op = packer.op()
    assert op is not None
    return op


def refusal(state: State, op: Op) -> ConflictReason | None:
    conflict = state.apply(Transaction(client="c", sequence=state.version, at=1.0, ops=(op,)))[0].conflict
    return None if conflict is None else conflict.reason


def test_the_tasks_of_a_pack_count_as_operations() -> None:
    assert refusal(begun(), a_pack(OPS_MAX)) is None
    state = begun()
    assert refusal(state, a_pack(OPS_MAX + 1)) is ConflictReason.TOO_LARGE
    assert not state.tasks


def _damaged(field: str, value: object) -> bytes:
    pack = msgspec.msgpack.decode(a_pack(2).object, type=PackedTasks)
    births = _replace(pack.births[0], **{field: value})
    return msgspec.msgpack.encode(_replace(pack, births=(births,)))


@pytest.mark.parametrize(
    ("field", "value"), [("slots", (1,)), ("of", (0, 7)), ("of", (0, -1)), ("of", (0,)), ("services", ())]
)
def test_columns_that_do_not_match_are_refused(field: str, value: object) -> None:
    op = Op(action=Action.TASKS, table=Table.TASK, id="t0", object=_damaged(field, value))
    state = begun()
    assert refusal(state, op) is ConflictReason.MALFORMED
    assert not state.tasks


def test_what_is_no_pack_at_all_is_refused() -> None:
    for junk in (b"", b"\xc1", msgspec.msgpack.encode({"births": 1})):
        op = Op(action=Action.TASKS, table=Table.TASK, id="t0", object=junk)
        assert refusal(begun(), op) is ConflictReason.MALFORMED


def test_an_empty_pack_is_no_operation() -> None:
    assert Packer().op() is None
