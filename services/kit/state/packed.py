"""Many tasks in one operation: what most transactions of the leader consist of, written once for all tasks that are alike.

A task that is born, placed or seen in a new state differs from hundreds of others in its id, slot, node and little else. ``Packer`` (the
dispatcher's desk) gathers such writes into one operation, whose columns hold what differs; the state takes it apart again when it is applied,
and sends it on to the replicas as it is. What must stay true: a packed write has the very effect of the plain create or update it stands for; what
cannot be said in columns is not packed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import attrgetter
from sys import intern

import msgspec

from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Meta, PortStatus, Task, TaskStatus
from services.kit.model.specs import GenericResource
from services.kit.model.states import TaskState
from services.kit.model.value import Value
from services.kit.state.tables import Table
from services.kit.state.transaction import Action, Op
from services.kit.state.view import View

_NOWHERE = -1
_replace = msgspec.structs.replace


class Places(Value, frozen=True, kw_only=True, array_like=True):
    """Where some tasks are, and what they were dealt there."""

    nodes: tuple[NodeId, ...] = ()
    at: tuple[int, ...] = ()
    """By task the number of its node among ``nodes``, below 0 for none; empty when nothing is said of nodes."""
    generic: dict[int, tuple[GenericResource, ...]] = {}
    """By the task's number, where something is said of it."""


class Births(Value, frozen=True, kw_only=True, array_like=True):
    """New tasks."""

    like: Task
    """What they have in common; its service, id and place say nothing."""
    services: tuple[tuple[ServiceId, int], ...]
    """Services and spec versions."""
    of: tuple[int, ...]
    """By task the number of its service; empty when all are of the first."""
    ids: tuple[TaskId, ...]
    slots: tuple[int, ...]
    places: Places


class Seen(Value, frozen=True, kw_only=True, array_like=True):
    """A status without the manager that stored it."""

    state: TaskState
    timestamp: float
    message: str = ""
    error: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    ports: tuple[PortStatus, ...] = ()
    ran_s: float = 0.0


class Turns(Value, frozen=True, kw_only=True, array_like=True):
    """Tasks that changed in the same respects."""

    ids: tuple[TaskId, ...]
    bases: tuple[int, ...]
    """Versions that the writer saw."""
    status: TaskStatus | None = None
    """The status of all of them."""
    seen: tuple[Seen, ...] = ()
    """The status of each of them, with ``applied_by`` and ``applied_at``; without this and ``status`` they keep theirs."""
    applied_by: str = ""
    applied_at: float = 0.0
    desired: TaskState | None = None
    reason: str | None = None
    places: Places = Places()


class PackedTasks(Value, frozen=True, kw_only=True, array_like=True):
    """The whole operation."""

    births: tuple[Births, ...] = ()
    turns: tuple[Turns, ...] = ()

    def __len__(self) -> int:
        """Return the number of tasks."""
        return sum(len(group.ids) for group in self.births) + sum(len(group.ids) for group in self.turns)


_decoder = msgspec.msgpack.Decoder(PackedTasks)
_encoder = msgspec.msgpack.Encoder()


def decode_packed(data: bytes) -> PackedTasks:
    """Return what an operation says; raises msgspec.DecodeError when it says nothing sensible."""
    packed = _decoder.decode(data)
    for births in packed.births:
        _check_columns(len(births.ids), births.places, births.slots)
        _check_numbers(births.of, len(births.ids), 0, len(births.services))
        if births.ids and not births.services:
            raise msgspec.ValidationError("tasks without a service")
    for turns in packed.turns:
        _check_columns(len(turns.ids), turns.places, turns.bases, *((turns.seen,) if turns.seen else ()))
    return packed


def _check_columns(tasks: int, places: Places, *columns: tuple[object, ...]) -> None:
    if any(len(column) != tasks for column in columns):
        raise msgspec.ValidationError("columns of different lengths")
    _check_numbers(places.at, tasks, _NOWHERE, len(places.nodes))


def _check_numbers(column: tuple[int, ...], tasks: int, least: int, end: int) -> None:
    if column and (len(column) != tasks or min(column) < least or max(column) >= end):
        raise msgspec.ValidationError("a column refers to nothing")


# -- taking apart

Write = tuple[TaskId, int | None, Task | None, Task | None]
"""Id, base (None for a create), the task as it is and as it is to be; None for what there is not."""


def packed_writes(packed: PackedTasks, view: View, version: int, at: float) -> Iterator[Write]:
    """Yield the writes one after the other; each sees those before it, if its taker does them at once.

    Ids that the view knows become the view's own objects, so that each is in memory once.
    """
    for births in packed.births:
        yield from _born(births, view, version, at)
    for turns in packed.turns:
        yield from _turned(turns, view, version, at)


def _born(births: Births, view: View, version: int, at: float) -> Iterator[Write]:
    like = _replace(births.like, meta=Meta(version=version, created_at=at, updated_at=at))
    places, tasks, known = births.places, view.tasks, view.services
    services = [(held.id if (held := known.get(service)) else service, spec) for service, spec in births.services]
    of = [services[number] for number in births.of] if births.of else repeat(services[0], len(births.ids))
    nodes = _nodes(places, view) if places.at else repeat(None, len(births.ids))
    rows = zip(births.ids, births.slots, of, nodes, strict=False)
    for number, (task_id, slot, (service, spec), node) in enumerate(rows):
        task = _replace(like, id=task_id, slot=slot, service_id=service, spec_version=spec, node_id=node)
        yield task_id, None, tasks.get(task_id), _dealt(task, places, number) if places.generic else task


def _turned(turns: Turns, view: View, version: int, at: float) -> Iterator[Write]:
    metas: dict[float, Meta] = {}
    tasks, places = view.tasks, turns.places
    nodes = _nodes(places, view) if places.at else None
    wishes: dict[str, object] = {}
    if turns.desired is not None:
        wishes["desired_state"] = turns.desired
    if turns.reason is not None:
        wishes["reason"] = turns.reason
    for number, (task_id, base) in enumerate(zip(turns.ids, turns.bases, strict=True)):
        old = tasks.get(task_id)
        if old is None:
            yield task_id, base, None, None
            continue
        created = old.meta.created_at
        meta = metas.get(created)
        if meta is None:
            meta = metas[created] = Meta(version=version, created_at=created, updated_at=at)
        status = turns.status or (_status(turns, number) if turns.seen else old.status)
        node = old.node_id if nodes is None else nodes[number]
        new = _replace(old, meta=meta, status=status, node_id=node, **wishes)
        yield old.id, base, old, _dealt(new, places, number) if places.generic else new


def _nodes(places: Places, view: View) -> list[NodeId | None]:
    known = view.nodes
    nodes: list[NodeId | None] = [held.id if (held := known.get(node)) else node for node in places.nodes]
    nodes.append(None)
    return [nodes[number] for number in places.at]


def _dealt(task: Task, places: Places, number: int) -> Task:
    dealt = places.generic.get(number)
    return task if dealt is None else _replace(task, generic=dealt)


def _status(turns: Turns, number: int) -> TaskStatus:
    seen = turns.seen[number]
    return TaskStatus(
        state=seen.state,
        timestamp=seen.timestamp,
        message=intern(seen.message),  # few different ones, in memory once
        error=seen.error,
        container_id=seen.container_id,
        pid=seen.pid,
        exit_code=seen.exit_code,
        ports=seen.ports,
        applied_by=turns.applied_by,
        applied_at=turns.applied_at,
        ran_s=seen.ran_s,
    )


def _seen(status: TaskStatus) -> Seen:
    return Seen(
        state=status.state,
        timestamp=status.timestamp,
        message=status.message,
        error=status.error,
        container_id=status.container_id,
        pid=status.pid,
        exit_code=status.exit_code,
        ports=status.ports,
        ran_s=status.ran_s,
    )


# -- packing

_COLUMNS = {"id", "meta", "service_id", "spec_version", "slot", "node_id", "generic"}
"""What a birth says of each task; all else is in ``like``."""
_LIKE = attrgetter(*(name for name in Task.__struct_fields__ if name not in _COLUMNS))
_CHANGING = {"id", "meta", "node_id", "desired_state", "status", "reason", "generic"}
"""What an update can change."""
_FIXED = attrgetter(*(name for name in Task.__struct_fields__ if name not in _CHANGING))


def is_packable(before: Task, after: Task) -> bool:
    """Tell whether columns can say what became of a task; what becomes of it at its birth they always can."""
    return _FIXED(before) == _FIXED(after)


class Packer:
    """Gathers the writes of one transaction."""

    def __init__(self) -> None:
        self._births: dict[tuple[object, ...], list[Task]] = {}
        self._turns: list[tuple[Task, Task]] = []

    def create(self, task: Task) -> None:
        """Add a new task."""
        self._births.setdefault((task.node_id is None, *_LIKE(task)), []).append(task)

    def update(self, before: Task, after: Task) -> None:
        """Add what became of a task. Statuses that are one and the same object are said once."""
        self._turns.append((before, after))

    def op(self) -> Op | None:
        """Return the operation, None when there is nothing to write."""
        births = tuple(_births(tasks) for tasks in self._births.values())
        turns = tuple(_turns(pairs) for pairs in self._alike())
        ids = births[0].ids if births else turns[0].ids if turns else ()
        if not ids:
            return None
        packed = _encoder.encode(PackedTasks(births=births, turns=turns))
        return Op(action=Action.TASKS, table=Table.TASK, id=ids[0], object=packed)

    def _alike(self) -> Iterable[list[tuple[Task, Task]]]:
        """Return the updates that change the same respects in one list."""
        common = Counter([id(after.status) for _, after in self._turns])
        groups: dict[tuple[object, ...], list[tuple[Task, Task]]] = {}
        for before, after in self._turns:
            status = after.status
            kind: object = None
            if status is not before.status:
                kind = id(status) if common[id(status)] > 1 else (status.applied_by, status.applied_at)
            wish = after.desired_state if after.desired_state is not before.desired_state else None
            reason = after.reason if after.reason != before.reason else None
            key = (kind, wish, reason, after.node_id != before.node_id)
            groups.setdefault(key, []).append((before, after))
        return groups.values()


def _births(tasks: Sequence[Task]) -> Births:
    numbers: dict[tuple[ServiceId, int], int] = {}
    of = tuple(numbers.setdefault((task.service_id, task.spec_version), len(numbers)) for task in tasks)
    first = tasks[0]
    like = _replace(first, id=TaskId(""), service_id=ServiceId(""), spec_version=0, slot=0, node_id=None, generic=())
    return Births(
        like=_replace(like, meta=Meta()),
        services=tuple(numbers),
        of=of if len(numbers) > 1 else (),
        ids=tuple(task.id for task in tasks),
        slots=tuple(task.slot for task in tasks),
        places=_places(
            tasks if first.node_id is not None else (),
            {number: task.generic for number, task in enumerate(tasks) if task.generic},
        ),
    )


def _turns(pairs: Sequence[tuple[Task, Task]]) -> Turns:
    before, after = pairs[0]
    moved = after.node_id != before.node_id
    tasks = [task for _, task in pairs]
    said = after.status is not before.status
    shared = said and len(tasks) > 1 and all(task.status is after.status for task in tasks)
    own = said and not shared
    generic = {number: new.generic for number, (old, new) in enumerate(pairs) if new.generic != old.generic}
    return Turns(
        ids=tuple(task.id for task in tasks),
        bases=tuple(old.meta.version for old, _ in pairs),
        status=after.status if shared else None,
        seen=tuple(_seen(task.status) for task in tasks) if own else (),
        applied_by=after.status.applied_by if own else "",
        applied_at=after.status.applied_at if own else 0.0,
        desired=after.desired_state if after.desired_state is not before.desired_state else None,
        reason=after.reason if after.reason != before.reason else None,
        places=_places(tasks if moved else (), generic),
    )


def _places(tasks: Sequence[Task], generic: dict[int, tuple[GenericResource, ...]]) -> Places:
    numbers: dict[NodeId, int] = {}
    at = tuple(_NOWHERE if task.node_id is None else numbers.setdefault(task.node_id, len(numbers)) for task in tasks)
    return Places(nodes=tuple(numbers), at=at, generic=generic)
