"""The state itself: tables, indexes, and the two ways they change.

``apply`` runs a transaction and decides its outcome; the raft process calls it for every committed entry, on every manager in the
same order, so it must depend on nothing but the state and the transaction. ``absorb`` takes the changes that ``apply`` made
elsewhere; replicas call it. What must stay true: equal transactions in equal order make equal states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar, cast

import msgspec

from services.kit.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId, VolumeId
from services.kit.model.objects import (
    Cluster,
    Config,
    Meta,
    Network,
    Node,
    Object,
    Secret,
    Service,
    SpecVersion,
    Task,
    Volume,
)
from services.kit.model.value import Value
from services.kit.state.addresses import AddressIndex
from services.kit.state.checks import refusal
from services.kit.state.packed import decode_packed, packed_writes
from services.kit.state.ports import PortIndex
from services.kit.state.sessions import ClientSession, Sessions
from services.kit.state.tables import TYPES, Table, decode_object, encode_object, name_of, with_meta
from services.kit.state.transaction import (
    OPS_MAX,
    Action,
    Change,
    ConflictReason,
    Op,
    Transaction,
    TxConflict,
    TxResult,
)


class Event(Value, frozen=True, kw_only=True):
    """One object before and after a transaction; ``old`` is None for a create, ``new`` for a remove."""

    action: Action
    table: Table
    old: Object | None = None
    new: Object | None = None

    @property
    def object(self) -> Object:
        """The object as it is now, or was last."""
        thing = self.new if self.new is not None else self.old
        assert thing is not None
        return thing


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenState:
    """All objects and sessions as they were at one version."""

    version: int
    tables: tuple[tuple[Table, tuple[Object, ...]], ...]
    sessions: tuple[ClientSession, ...]

    def changes(self) -> Iterator[Change]:
        """Yield every object as a create, in an order that ``State.absorb`` can take."""
        for table, objects in self.tables:
            for thing in objects:
                yield Change(action=Action.CREATE, table=table, id=thing.id, object=encode_object(thing))


KeyT = TypeVar("KeyT", bound=str)
_NO_TASKS: Mapping[TaskId, Task] = MappingProxyType({})
_NO_SPECS: Mapping[int, SpecVersion] = MappingProxyType({})


class State:
    """All objects of the store; satisfies ``View``."""

    def __init__(self) -> None:
        self.version = 0
        self.sessions = Sessions()
        self._tables: dict[Table, dict[str, Object]] = {table: {} for table in TYPES}
        self._names: dict[Table, dict[str, str]] = {table: {} for table in TYPES}
        self._by_service: dict[ServiceId, dict[TaskId, Task]] = {}
        self._by_node: dict[NodeId, dict[TaskId, Task]] = {}
        self._specs: dict[ServiceId, dict[int, SpecVersion]] = {}
        self.ports = PortIndex()
        self.addresses = AddressIndex()

    # -- reading (View)

    @property
    def cluster(self) -> Cluster | None:
        """The cluster, None until the first leader has made it."""
        for thing in self._tables[Table.CLUSTER].values():
            return cast("Cluster", thing)
        return None

    @property
    def nodes(self) -> Mapping[NodeId, Node]:
        """All nodes."""
        return cast("Mapping[NodeId, Node]", self._tables[Table.NODE])

    @property
    def services(self) -> Mapping[ServiceId, Service]:
        """All services."""
        return cast("Mapping[ServiceId, Service]", self._tables[Table.SERVICE])

    @property
    def tasks(self) -> Mapping[TaskId, Task]:
        """All tasks."""
        return cast("Mapping[TaskId, Task]", self._tables[Table.TASK])

    @property
    def secrets(self) -> Mapping[SecretId, Secret]:
        """All secrets."""
        return cast("Mapping[SecretId, Secret]", self._tables[Table.SECRET])

    @property
    def configs(self) -> Mapping[ConfigId, Config]:
        """All configs."""
        return cast("Mapping[ConfigId, Config]", self._tables[Table.CONFIG])

    @property
    def networks(self) -> Mapping[NetworkId, Network]:
        """All networks."""
        return cast("Mapping[NetworkId, Network]", self._tables[Table.NETWORK])

    @property
    def volumes(self) -> Mapping[VolumeId, Volume]:
        """All cluster volumes."""
        return cast("Mapping[VolumeId, Volume]", self._tables[Table.VOLUME])

    def get(self, table: Table, object_id: str) -> Object | None:
        """One object of any table."""
        return self._tables[table].get(object_id)

    def holder_of_name(self, table: Table, name: str) -> str | None:
        """Id of the object that has this name in a table with unique names."""
        return self._names[table].get(name.lower())

    def spec(self, service: ServiceId, version: int) -> SpecVersion | None:
        """The template of a service's version."""
        return self._specs.get(service, _NO_SPECS).get(version)

    def specs_of(self, service: ServiceId) -> Mapping[int, SpecVersion]:
        """All stored templates of a service, by version."""
        return self._specs.get(service, _NO_SPECS)

    def service_named(self, name: str) -> Service | None:
        """The service with this name, whatever its case."""
        held = self.holder_of_name(Table.SERVICE, name)
        return None if held is None else self.services[ServiceId(held)]

    def tasks_of_service(self, service: ServiceId) -> Mapping[TaskId, Task]:
        """Tasks of a service, live and ended."""
        return self._by_service.get(service, _NO_TASKS)

    def tasks_of_node(self, node: NodeId) -> Mapping[TaskId, Task]:
        """Tasks that were given to a node, live and ended."""
        return self._by_node.get(node, _NO_TASKS)

    # -- changing

    def apply(self, transaction: Transaction) -> tuple[TxResult, tuple[Change, ...]]:
        """Run a transaction; a repeated one answers as it did the first time and changes nothing."""
        known = self.sessions.recall(transaction.client, transaction.sequence)
        if known is not None:
            return known, ()
        if self.sessions.is_over(transaction.client, transaction.sequence):
            return TxResult(version=self.version, conflict=_repeated(transaction.ops)), ()
        version = self.version + 1
        changes: list[Change] = []
        undo: list[tuple[Table, str, Object | None]] = []
        conflict = self._too_large(len(transaction.ops), transaction.ops)
        for op in () if conflict else transaction.ops:
            if op.action is Action.TASKS:
                conflict = self._run_packed(op, version, transaction.at, undo) or self._too_large(len(undo), (op,))
                if conflict is not None:
                    break
                changes.append(Change(action=op.action, table=op.table, id=op.id, object=op.object))
                continue
            outcome = self._run(op, version, transaction.at)
            if isinstance(outcome, TxConflict):
                conflict = outcome
                break
            old, change = outcome
            undo.append((op.table, op.id, old))
            changes.append(change)
        if conflict is not None:
            for table, object_id, old in reversed(undo):
                self._put(table, object_id, old)
            result = TxResult(version=self.version, conflict=conflict)
            changes = []
        else:
            self.version = version
            result = TxResult(version=version)
        self.sessions.remember(transaction.client, transaction.sequence, result, transaction.unanswered_from)
        return result, tuple(changes)

    def absorb(self, version: int, changes: tuple[Change, ...], at: float) -> list[Event]:
        """Take the changes of the transaction that made ``version``, and return them with what was there before.

        ``at`` is when it was made, by the proposer's clock; without meaning for changes that are a full state.
        """
        events: list[Event] = []
        for change in changes:
            if change.action is Action.TASKS:
                events += self._unpack(change, version, at)
                continue
            new = None if change.action is Action.REMOVE else decode_object(change.table, change.object)
            old = self._tables[change.table].get(change.id)
            self._put(change.table, change.id, new)
            events.append(Event(action=change.action, table=change.table, old=old, new=new))
        self.version = version
        return events

    def full(self) -> Iterator[Change]:
        """Yield every object as a create, in an order that ``absorb`` can take."""
        for table, objects in self._tables.items():
            for object_id, thing in list(objects.items()):
                yield Change(action=Action.CREATE, table=table, id=object_id, object=encode_object(thing))

    def freeze(self) -> FrozenState:
        """Return everything as it is now, for a snapshot that is written while the state moves on. Objects are shared, not copied."""
        tables = tuple((table, tuple(objects.values())) for table, objects in self._tables.items())
        return FrozenState(version=self.version, tables=tables, sessions=self.sessions.dump())

    def __len__(self) -> int:
        """Return the number of objects."""
        return sum(len(objects) for objects in self._tables.values())

    # -- inside

    def _too_large(self, count: int, ops: tuple[Op, ...]) -> TxConflict | None:
        if count <= OPS_MAX:
            return None
        message = f"a transaction has at most {OPS_MAX} operations, this one has {count}"
        return TxConflict(reason=ConflictReason.TOO_LARGE, table=ops[0].table, id=ops[0].id, message=message)

    def _run(self, op: Op, version: int, at: float) -> tuple[Object | None, Change] | TxConflict:
        old = self._tables[op.table].get(op.id)
        new: Object | None = None
        if op.action is not Action.REMOVE:
            try:
                new = decode_object(op.table, op.object)
            except (msgspec.DecodeError, RecursionError) as err:
                return TxConflict(reason=ConflictReason.MALFORMED, table=op.table, id=op.id, message=str(err))
        conflict = refusal(self, op, old, new)
        if conflict is not None:
            return conflict
        if new is None:
            assert old is not None
            self._put(op.table, op.id, None)
            return old, Change(action=op.action, table=op.table, id=op.id, object=encode_object(old))
        created = at if old is None else old.meta.created_at
        stored = with_meta(new, Meta(version=version, created_at=created, updated_at=at))
        self._put(op.table, op.id, stored)
        return old, Change(action=op.action, table=op.table, id=op.id, object=encode_object(stored))

    def _run_packed(
        self, op: Op, version: int, at: float, undo: list[tuple[Table, str, Object | None]]
    ) -> TxConflict | None:
        """Do what a packed operation says, in the order in which it says it, under the rules of plain operations."""
        try:
            packed = decode_packed(op.object)
        except (msgspec.DecodeError, RecursionError) as err:
            return TxConflict(reason=ConflictReason.MALFORMED, table=op.table, id=op.id, message=str(err))
        for task_id, base, old, new in packed_writes(packed, self, version, at):
            if new is None or not self._is_plain_sailing(base, old, new):
                action = Action.CREATE if base is None else Action.UPDATE
                stands_for = Op(action=action, table=Table.TASK, id=task_id, base=base or 0)
                conflict = refusal(self, stands_for, old, new)
                if conflict is not None:
                    return conflict
            assert new is not None
            self._put_task(old, new)
            undo.append((Table.TASK, task_id, old))
        return None

    def _is_plain_sailing(self, base: int | None, old: Task | None, new: Task) -> bool:
        """Tell whether nothing can be wrong with a packed write; otherwise it is looked at like a plain one."""
        if new.networks and old is None:
            return False  # it brings addresses; an update never does
        if base is None or old is None:
            return base is None and old is None and self.spec(new.service_id, new.spec_version) is not None
        forward = new.status.state >= old.status.state and new.desired_state >= old.desired_state
        return forward and base == old.meta.version

    def _unpack(self, change: Change, version: int, at: float) -> Iterator[Event]:
        """Take the changes of a packed operation that was done elsewhere."""
        for _, base, old, new in packed_writes(decode_packed(change.object), self, version, at):
            assert new is not None, "a replica has other tasks than the store"
            self._put_task(old, new)
            yield Event(action=Action.CREATE if base is None else Action.UPDATE, table=Table.TASK, old=old, new=new)

    def _put(self, table: Table, object_id: str, new: Object | None) -> None:
        """Replace, add or (None) delete one object and keep every index true."""
        objects = self._tables[table]
        old = objects.get(object_id)
        if isinstance(old, Task) and isinstance(new, Task) and old.service_id == new.service_id:
            self._put_task(old, new)
            return
        if old is not None:
            self._unindex(table, old)
        if new is None:
            objects.pop(object_id, None)
        else:
            objects[new.id] = new
            self._index(table, new)

    def _index(self, table: Table, thing: Object) -> None:
        name = name_of(thing)
        if name:
            self._names[table][name] = thing.id
        match thing:
            case Task():
                self._by_service.setdefault(thing.service_id, {})[thing.id] = thing
                if thing.node_id is not None:
                    self._by_node.setdefault(thing.node_id, {})[thing.id] = thing
                if thing.networks:
                    self.addresses.add(thing)
            case SpecVersion():
                self._specs.setdefault(thing.service_id, {})[thing.version] = thing
            case Service():
                self.ports.add(thing)
                self.addresses.add(thing)
            case _:
                pass

    def _put_task(self, old: Task | None, new: Task) -> None:
        """Do the commonest change of all: a new task, or one of the same service, on the same node or given one."""
        task_id, node = new.id, new.node_id
        self._tables[Table.TASK][task_id] = new
        siblings = self._by_service.get(new.service_id)
        if siblings is None:
            siblings = self._by_service[new.service_id] = {}
        siblings[task_id] = new
        if old is not None and old.node_id is not None and old.node_id != node:
            _forget(self._by_node, old.node_id, task_id)
        if node is not None:
            tenants = self._by_node.get(node)
            if tenants is None:
                tenants = self._by_node[node] = {}
            tenants[task_id] = new
        if new.networks or (old is not None and old.networks):
            if old is not None:
                self.addresses.discard(old)
            self.addresses.add(new)

    def _unindex(self, table: Table, thing: Object) -> None:
        name = name_of(thing)
        if name and self._names[table].get(name) == thing.id:
            del self._names[table][name]
        match thing:
            case Task():
                _forget(self._by_service, thing.service_id, thing.id)
                if thing.node_id is not None:
                    _forget(self._by_node, thing.node_id, thing.id)
                if thing.networks:
                    self.addresses.discard(thing)
            case SpecVersion():
                _forget(self._specs, thing.service_id, thing.version)
            case Service():
                self.ports.discard(thing)
                self.addresses.discard(thing)
            case _:
                pass


def _repeated(ops: tuple[Op, ...]) -> TxConflict:
    table, object_id = (ops[0].table, ops[0].id) if ops else (Table.CLUSTER, "")
    message = "this transaction was answered before"
    return TxConflict(reason=ConflictReason.REPEATED, table=table, id=object_id, message=message)


InnerT = TypeVar("InnerT")
ThingT = TypeVar("ThingT")


def _forget(index: dict[KeyT, dict[InnerT, ThingT]], key: KeyT, inner: InnerT) -> None:
    group = index.get(key)
    if group is not None:
        group.pop(inner, None)
        if not group:
            del index[key]
