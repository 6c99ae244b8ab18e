"""The leader's desk: the store as it will be once everything under way has taken effect, and the writes that make it so.

Planning reads the desk and puts steps on it; ``pack`` turns the steps of a pass into transactions, one operation an object however
many loops touched it (a task is created, given ports and placed in one write). What must stay true: an object with a write under way
is not written again until that write was absorbed or refused; every change of what the desk shows is told as an event, exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from services.dispatcher.core.overlay import Overlay
from services.dispatcher.core.picture import SlotKey, Step
from services.dispatcher.core.slots import Slots
from services.kit.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId, VolumeId
from services.kit.model.objects import (
    Cluster,
    Config,
    Network,
    Node,
    Object,
    Secret,
    Service,
    SpecVersion,
    Task,
    Volume,
)
from services.kit.model.states import Protocol
from services.kit.state.packed import Packer, is_packable
from services.kit.state.ports import published
from services.kit.state.state import Event, State
from services.kit.state.tables import TABLE_OF, TYPES, Table, encode_object, with_meta
from services.kit.state.transaction import BYTES_MAX, OPS_MAX, Action, Op, TxResult, create, remove, update

Place = tuple[Table, str]
"""Table and id of an object."""
_OP_BYTES = 64
"""Bytes of an operation besides its object, roughly."""
_TASK_BYTES = 256
"""Most bytes of an ordinary task in a packed operation."""
_BUNCH = 64
"""Most tasks of a bunch that share an atom. What merges with it later stays far below a transaction's bound."""


@dataclass(slots=True)
class _Atom:
    """Objects that are written together or not at all."""

    places: list[Place]
    tags: list[object]


@dataclass(slots=True)
class _Written:
    """One object on the desk: what it becomes (None: removed) and what was there."""

    thing: Object | None
    before: Object | None
    atom: _Atom
    flight: int = 0
    """Number of the transaction that carries it; 0 until packed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A transaction to propose. ``number`` is named again when its result comes."""

    number: int
    ops: tuple[Op, ...]
    tags: Sequence[object] = ()
    """What its writes are for."""


@dataclass(slots=True)
class _Aloft:
    """What is known of a transaction under way."""

    places: list[Place]
    tags: list[object]
    missing: int
    decided_at: int | None = None
    """Version of the state that shows its result."""
    applied: bool = False


_Write = Op | tuple[Task | None, Task]
"""An operation, or a task before and after, to be packed with others."""


class _Load:
    """What one transaction carries so far."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.tags: list[object] = []
        self.writes = 0
        self.size = 0
        self._ops: list[Op] = []
        self._puts = 0
        """Number of operations up to the last one that puts something."""
        self._packer = Packer()

    def add(self, atom: _Atom, writes: list[_Write], size: int) -> None:
        """Take an atom's writes on."""
        for write in writes:
            if isinstance(write, Op):
                self._ops.append(write)
                if write.action is not Action.REMOVE:
                    self._puts = len(self._ops)
            elif write[0] is None:
                self._packer.create(write[1])
            else:
                self._packer.update(write[0], write[1])
        self.places += atom.places
        self.tags += atom.tags
        self.writes += len(writes)
        self.size += size

    def ops(self) -> tuple[Op, ...]:
        """Return the operations: tasks come after the templates they refer to, and before those are removed."""
        packed = self._packer.op()
        return tuple(self._ops) if packed is None else (*self._ops[: self._puts], packed, *self._ops[self._puts :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """A transaction that is over: what its writes were for, and whether they took effect."""

    tags: Sequence[object]
    applied: bool
    freed: Sequence[Place] = field(default=())
    events: Sequence[Event] = field(default=())
    """What the desk shows differently now, because the writes were refused or others came after them."""


class Desk:
    """A picture over a state (see ``Picture``), with writes laid over it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._written: dict[Place, _Written] = {}
        self._fresh: dict[int, _Atom] = {}
        self._aloft: dict[int, _Aloft] = {}
        self._flights = 0
        self._slots = Slots()
        self._slots.fill(state.tasks.values())
        self._nodes = Overlay(state.nodes)
        self._services = Overlay(state.services)
        self._tasks = Overlay(state.tasks)
        self._volumes = Overlay(state.volumes)
        self._changes: dict[Table, dict[str, Object | None]] = {table: {} for table in TYPES}
        self._changes[Table.NODE] = cast("dict[str, Object | None]", self._nodes.changes)
        self._changes[Table.SERVICE] = cast("dict[str, Object | None]", self._services.changes)
        self._changes[Table.TASK] = cast("dict[str, Object | None]", self._tasks.changes)
        self._changes[Table.VOLUME] = cast("dict[str, Object | None]", self._volumes.changes)
        self._specs: dict[ServiceId, dict[int, SpecVersion | None]] = {}
        self._by_node: dict[NodeId, dict[TaskId, Task | None]] = {}

    # -- reading

    @property
    def version(self) -> int:
        """Version of the state below."""
        return self.state.version

    @property
    def cluster(self) -> Cluster | None:
        """The cluster; nothing on the desk ever changes it."""
        return self.state.cluster

    @property
    def nodes(self) -> Mapping[NodeId, Node]:
        """All nodes."""
        return self._nodes

    @property
    def services(self) -> Mapping[ServiceId, Service]:
        """All services."""
        return self._services

    @property
    def tasks(self) -> Mapping[TaskId, Task]:
        """All tasks."""
        return self._tasks

    @property
    def secrets(self) -> Mapping[SecretId, Secret]:
        """All secrets."""
        return self.state.secrets

    @property
    def configs(self) -> Mapping[ConfigId, Config]:
        """All configs."""
        return self.state.configs

    @property
    def networks(self) -> Mapping[NetworkId, Network]:
        """All networks."""
        return self.state.networks

    @property
    def volumes(self) -> Mapping[VolumeId, Volume]:
        """All cluster volumes."""
        return self._volumes

    def spec(self, service: ServiceId, version: int) -> SpecVersion | None:
        """The template of a service's version."""
        changed = self._specs.get(service)
        if changed is not None and version in changed:
            return changed[version]
        return self.state.spec(service, version)

    def specs_of(self, service: ServiceId) -> Mapping[int, SpecVersion]:
        """All stored templates of a service, by version."""
        return _merged(self.state.specs_of(service), self._specs.get(service))

    def service_named(self, name: str) -> Service | None:
        """The service with this name, whatever its case."""
        held = self.state.service_named(name)
        return None if held is None else self._services.find(held.id)

    def tasks_of_service(self, service: ServiceId) -> Mapping[TaskId, Task]:
        """Tasks of a service, live and ended."""
        return {task.id: task for slot in self._slots.of(service).values() for task in slot.values()}

    def tasks_of_node(self, node: NodeId) -> Mapping[TaskId, Task]:
        """Tasks that were given to a node, live and ended."""
        return _merged(self.state.tasks_of_node(node), self._by_node.get(node))

    def slots_of(self, service: ServiceId) -> Mapping[SlotKey, Mapping[TaskId, Task]]:
        """Tasks of a service by slot, in the order of their creation."""
        return self._slots.of(service)

    def slot(self, service: ServiceId, slot: SlotKey) -> Sequence[Task]:
        """Tasks of one slot, in the order of their creation."""
        return tuple(self._slots.one(service, slot).values())

    def port_is_taken(self, port: int, protocol: Protocol) -> bool:
        """Tell whether any service publishes this port, or did until a write under way."""
        if self.state.ports.taken(port, protocol):
            return True
        return any(
            (held.published_port, held.protocol) == (port, protocol)
            for service in self._services.changes.values()
            if service is not None
            for held in published(service)
        )

    # -- writing

    @property
    def is_clear(self) -> bool:
        """True when nothing is under way."""
        return not self._written

    @property
    def flights(self) -> int:
        """Transactions under way."""
        return len(self._aloft)

    def held(self, step: Step) -> Place | None:
        """Return an object of the step that has a write under way, or None."""
        for place in _places(step):
            written = self._written.get(place)
            if written is not None and written.flight:
                return place
        return None

    def take(self, step: Step, tag: object) -> list[Event]:
        """Lay the writes of a step on the desk and return what changed. None of its objects may be held."""
        places = _places(step)
        atom = self._atom_for(places, tag)
        things: tuple[Object | None, ...] = step.puts
        if step.removes:
            things = (*step.puts, *(None for _ in step.removes))
        events: list[Event] = []
        for place, thing in zip(places, things, strict=True):
            event = self._write(atom, place, thing)
            if event is not None:
                events.append(event)
        return events

    def take_bunch(self, tasks: Sequence[Task], tag: object) -> tuple[list[Event], list[Place]]:
        """Lay writes of tasks on the desk that need not be written together; return what changed, and which are held."""
        events: list[Event] = []
        held: list[Place] = []
        atom = _Atom([], [tag])
        for task in tasks:
            place = (Table.TASK, task.id)
            written = self._written.get(place)
            if written is None:
                old = self.state.tasks.get(task.id)
                if len(atom.places) == _BUNCH:
                    atom = _Atom([], [tag])
                if not atom.places:
                    self._fresh[id(atom)] = atom
                self._written[place] = _Written(task, old, atom)
                atom.places.append(place)
            elif written.flight:
                held.append(place)
                continue
            else:
                old, written.thing = cast("Task | None", written.thing), task
                if written.atom is not atom:
                    written.atom.tags.append(tag)
            events.append(self._show_task(old, task))
        return events, held

    def pack(self) -> list[Flight]:
        """Turn everything laid down since the last call into transactions within the store's bounds."""
        flights: list[Flight] = []
        load = _Load()
        for atom in self._fresh.values():
            writes = self._writes_of(atom)
            size = sum(map(_bytes_of, writes))
            if load.writes and (load.writes + len(writes) > OPS_MAX or load.size + size > BYTES_MAX):
                flights.append(self._launch(load))
                load = _Load()
            if writes:
                load.add(atom, writes, size)
        if load.writes:
            flights.append(self._launch(load))
        self._fresh = {}
        return flights

    def absorbed(self, events: Sequence[Event]) -> tuple[list[Event], list[Landed]]:
        """Return which changes of the state below are news to who reads the desk, and the transactions that are over by them."""
        news: list[Event] = []
        landed: list[Landed] = []
        for event in events:
            new = event.new
            place = (event.table, event.object.id if new is None else new.id)
            written = self._written.get(place)
            if written is None:
                news.append(event)
                if event.table is Table.TASK:
                    self._index_task(event)
            elif written.flight and _same(written.thing, new):
                self._settle(place, written, landed)
        for number, aloft in list(self._aloft.items()):
            if aloft.decided_at is not None and self.state.version >= aloft.decided_at:
                landed.append(self._clear(number, aloft))
        return news, landed

    def answered(self, number: int, result: TxResult) -> list[Landed]:
        """Take the store's result of a transaction; it is over once the state below shows it."""
        aloft = self._aloft.get(number)
        if aloft is None:
            return []
        aloft.decided_at, aloft.applied = result.version, result.conflict is None
        if self.state.version >= result.version:
            return [self._clear(number, aloft)]
        return []

    def check(self) -> None:
        """Assert that the indexes say what the tables say."""
        expected = Slots()
        expected.fill(self._tasks.values())
        seen = {
            service: {slot: set(tasks) for slot, tasks in self._slots.of(service).items()}
            for service in self._all_services()
        }
        wanted = {
            service: {slot: set(tasks) for slot, tasks in expected.of(service).items()}
            for service in self._all_services()
        }
        assert seen == wanted, "the slots are out of step"

    # -- inside

    def _all_services(self) -> Iterator[ServiceId]:
        yield from sorted({task.service_id for task in self._tasks.values()})

    def _atom_for(self, places: Sequence[Place], tag: object) -> _Atom:
        """Return the atom for a step: its own, or that of earlier steps of this pass that touched the same objects."""
        found: _Atom | None = None
        for place in places:
            written = self._written.get(place)
            if written is None or written.atom is found:
                continue
            assert not written.flight, f"{place[0]} {place[1]} has a write under way"
            if found is None:
                found = written.atom
            else:
                self._merge(found, written.atom)
        if found is None:
            found = _Atom([], [])
            self._fresh[id(found)] = found
        found.tags.append(tag)
        return found

    def _merge(self, into: _Atom, other: _Atom) -> None:
        for place in other.places:
            self._written[place].atom = into
        into.places += other.places
        into.tags += other.tags
        del self._fresh[id(other)]

    def _write(self, atom: _Atom, place: Place, thing: Object | None) -> Event | None:
        written = self._written.get(place)
        if written is None:
            shown = self.state.get(*place)
            self._written[place] = _Written(thing, shown, atom)
            atom.places.append(place)
        else:
            shown, written.thing = written.thing, thing
        return self._show(*place, shown, thing)

    def _show(self, table: Table, object_id: str, old: Object | None, new: Object | None) -> Event | None:
        """Change what the desk shows and return it as an event."""
        if old is None and new is None:
            return None
        self._changes[table][object_id] = new
        if isinstance(old, SpecVersion) or isinstance(new, SpecVersion):
            spec = new if isinstance(new, SpecVersion) else cast("SpecVersion", old)
            self._specs.setdefault(spec.service_id, {})[spec.version] = new if isinstance(new, SpecVersion) else None
        event = Event(action=_action(old, new), table=table, old=old, new=new)
        if table is Table.TASK:
            self._index_task(event)
            self._lay_by_node(cast("Task | None", old), cast("Task | None", new))
        return event

    def _show_task(self, old: Task | None, new: Task) -> Event:
        """Do the same for a task that is created or changed, by far the commonest case."""
        self._tasks.changes[new.id] = new
        if old is not None and slot_changed(old, new):
            self._slots.drop(old)
        self._slots.put(new)
        self._lay_by_node(old, new)
        return Event(action=Action.CREATE if old is None else Action.UPDATE, table=Table.TASK, old=old, new=new)

    def _index_task(self, event: Event) -> None:
        old, new = cast("Task | None", event.old), cast("Task | None", event.new)
        if old is not None and (new is None or slot_changed(old, new)):
            self._slots.drop(old)
        if new is not None:
            self._slots.put(new)

    def _lay_by_node(self, old: Task | None, new: Task | None) -> None:
        if old is not None and old.node_id is not None and (new is None or new.node_id != old.node_id):
            self._by_node.setdefault(old.node_id, {})[old.id] = None
        if new is not None and new.node_id is not None:
            self._by_node.setdefault(new.node_id, {})[new.id] = new

    def _lift(self, place: Place, written: _Written) -> None:
        """Take one object's change off the desk."""
        table, object_id = place
        del self._written[place]
        self._changes[table].pop(object_id, None)
        if table is Table.TASK:
            for task in (written.before, written.thing):
                node = None if task is None else cast("Task", task).node_id
                laid = None if node is None else self._by_node.get(node)
                if laid is not None and node is not None:
                    laid.pop(TaskId(object_id), None)
                    if not laid:
                        del self._by_node[node]
        elif table is Table.SPEC:
            spec = cast("SpecVersion", written.before if written.thing is None else written.thing)
            changed = self._specs.get(spec.service_id)
            if changed is not None:
                changed.pop(spec.version, None)
                if not changed:
                    del self._specs[spec.service_id]

    def _settle(self, place: Place, written: _Written, landed: list[Landed]) -> None:
        """The state below has one of our writes now."""
        self._lift(place, written)
        current = self.state.get(*place)
        if isinstance(current, Task):
            self._slots.put(current)
        aloft = self._aloft.get(written.flight)
        if aloft is None:
            return
        aloft.missing -= 1
        if aloft.missing == 0:
            del self._aloft[written.flight]
            landed.append(Landed(tags=aloft.tags, applied=True, freed=aloft.places))

    def _clear(self, number: int, aloft: _Aloft) -> Landed:
        """Show again what is there: the store refused the transaction, or a re-sync went past it."""
        del self._aloft[number]
        events: list[Event] = []
        for place in aloft.places:
            written = self._written.get(place)
            if written is None or written.flight != number:
                continue
            self._lift(place, written)
            current = self.state.get(*place)
            if _same(written.thing, current):
                continue
            event = Event(action=_action(written.thing, current), table=place[0], old=written.thing, new=current)
            if place[0] is Table.TASK:
                self._index_task(event)
            events.append(event)
        return Landed(tags=aloft.tags, applied=aloft.applied, freed=aloft.places, events=events)

    def _launch(self, load: _Load) -> Flight:
        self._flights += 1
        for place in load.places:
            self._written[place].flight = self._flights
        self._aloft[self._flights] = _Aloft(load.places, load.tags, missing=len(load.places))
        return Flight(number=self._flights, ops=load.ops(), tags=load.tags)

    def _writes_of(self, atom: _Atom) -> list[_Write]:
        """Return what an atom has to write; nothing when it came to nothing."""
        writes: list[_Write] = []
        idle: list[Place] = []
        for place in atom.places:
            written = self._written[place]
            before, thing = written.before, written.thing
            if thing is None:
                if before is None:
                    idle.append(place)
                else:
                    writes.append(remove(before))
            elif isinstance(thing, Task):
                assert before is None or isinstance(before, Task)
                if before is None or is_packable(before, thing):
                    writes.append((before, thing))
                else:
                    writes.append(update(thing, base=before.meta.version))
            elif before is None:
                writes.append(create(thing))
            else:
                writes.append(update(thing, base=before.meta.version))
        for place in idle:
            self._lift(place, self._written[place])
            atom.places.remove(place)
        assert len(writes) <= OPS_MAX, "a step is larger than a transaction"
        return writes


def _bytes_of(write: _Write) -> int:
    """Return about how many bytes a write takes, and not less if they are many."""
    if isinstance(write, Op):
        return len(write.object) + _OP_BYTES
    task = write[1]
    status = task.status
    if status.error or status.ports or task.generic or task.reason or len(status.message) > _OP_BYTES:
        return len(encode_object(task)) + _OP_BYTES
    return _TASK_BYTES


def _places(step: Step) -> list[Place]:
    """Return the places that a step writes to: those it puts something to, then those it clears."""
    places: list[Place] = [(TABLE_OF[type(thing)], thing.id) for thing in step.puts]
    if step.removes:
        places += [(TABLE_OF[type(thing)], thing.id) for thing in step.removes]
    return places


def slot_changed(old: Task, new: Task) -> bool:
    """Tell whether a task moved to another slot (a task of slot 0 that is given a node)."""
    return old.slot == 0 and old.node_id != new.node_id


def _action(old: Object | None, new: Object | None) -> Action:
    if old is None:
        return Action.CREATE
    return Action.REMOVE if new is None else Action.UPDATE


def _same(written: Object | None, stored: Object | None) -> bool:
    """Tell whether the store has what we wrote; its bookkeeping apart."""
    if written is None or stored is None:
        return written is stored
    return written == with_meta(stored, written.meta)


def _merged(below: Mapping, changes: Mapping | None) -> Mapping:  # type: ignore[type-arg]
    if not changes:
        return below
    merged = {key: thing for key, thing in below.items() if key not in changes}
    merged.update((key, thing) for key, thing in changes.items() if thing is not None)
    return merged
