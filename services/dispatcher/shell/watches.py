"""Streams of changes for users (``control.watch``), on any manager, resumable for as long as the changes are remembered."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec

from services.dispatcher.core.control.cluster import shown_cluster
from services.dispatcher.shell.bells import Bells
from services.kit.errors import FailedPrecondition, InvalidArgument, Problem
from services.kit.messages.control import ObjectEvent, ObjectEvents, WatchObjects
from services.kit.model.objects import Cluster, Object, Secret, Service, SpecVersion, Task
from services.kit.state.state import Event, State
from services.kit.state.tables import Table, encode_object, name_of
from services.kit.store.replica import Batch

BATCHES_MAX = 16_384
"""Transactions that are remembered for watchers; one that is further behind must list again."""
EVENTS_MAX = 40_000
"""Changes of objects that are remembered, in all transactions together."""


class Watches:
    """The latest transactions, and who reads them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._recent: deque[Batch] = deque()
        self._events = 0
        self.bells = Bells()

    def absorb(self, batch: Batch) -> None:
        """Take what the store applied."""
        if batch.reset:
            self._recent.clear()
            self._events = 0
        else:
            self._recent.append(batch)
            self._events += len(batch.events)
            while len(self._recent) > BATCHES_MAX or (self._events > EVENTS_MAX and len(self._recent) > 1):
                self._events -= len(self._recent.popleft().events)
        self.bells.ring()

    @property
    def since(self) -> int:
        """Version behind which everything is remembered."""
        return self._recent[0].version - 1 if self._recent else self._state.version

    def remembered(self, ref: str) -> str | None:
        """Return the id of an object that is gone, by its id or name, None when nothing of it is remembered."""
        for batch in reversed(self._recent):
            for event in batch.events:
                if event.new is None and ref.lower() in {event.object.id, name_of(event.object)}:
                    return event.object.id
        return None

    def history(self, wanted: Callable[[Event], bool], most: int) -> tuple[ObjectEvents, ...]:
        """Return the newest transactions that did something wanted, in their order."""
        found: list[ObjectEvents] = []
        for batch in reversed(self._recent):
            events = tuple(_shown(event, with_old=True) for event in batch.events if wanted(event))
            if events:
                found.append(_told(batch, events))
                if len(found) >= most:
                    break
        return tuple(reversed(found))

    async def watch(self, request: WatchObjects) -> AsyncIterator[ObjectEvents]:
        """Yield where it goes on from, then each transaction with what the request wants to see."""
        tables = _tables(request)
        seen = request.version or self._state.version
        bell = self.bells.add()
        try:
            self._after(seen)
            yield ObjectEvents(version=seen)
            while True:
                for batch in self._after(seen):
                    seen = batch.version
                    events = tuple(
                        _shown(event, with_old=request.with_old)
                        for event in batch.events
                        if event.table in tables and _concerns(event, request)
                    )
                    if events:
                        yield _told(batch, events)
                if seen == self._state.version:
                    await bell.wait()
        finally:
            self.bells.remove(bell)

    def _after(self, version: int) -> list[Batch]:
        """Return the transactions behind a version; raises FailedPrecondition when they are not remembered."""
        if version == self._state.version:
            return []
        recent = self._recent
        if version > self._state.version or not recent or recent[0].version > version + 1:
            raise FailedPrecondition(f"the changes behind version {version} are not remembered: list again, then watch")
        missing = recent[-1].version - version
        return [recent[index] for index in range(len(recent) - missing, len(recent))]


def _tables(request: WatchObjects) -> frozenset[Table]:
    problems = tuple(
        Problem(path=f"tables[{index}]", reason="is not a kind of object", value=name, hint=", ".join(Table))
        for index, name in enumerate(request.tables)
        if name not in set(Table)
    )
    if problems:
        raise InvalidArgument.of(problems)
    return frozenset(Table(name) for name in request.tables) or frozenset(Table)


def _concerns(event: Event, request: WatchObjects) -> bool:
    if request.ids and event.object.id not in request.ids:
        return False
    if not request.service_ids:
        return True
    match event.object:
        case Service(id=service_id) | Task(service_id=service_id) | SpecVersion(service_id=service_id):
            return service_id in request.service_ids
        case _:
            return False


def _told(batch: Batch, events: tuple[ObjectEvent, ...]) -> ObjectEvents:
    origin = batch.origin
    return ObjectEvents(version=batch.version, events=events, actor=origin.actor, cause=origin.cause, at=origin.at)


def _shown(event: Event, *, with_old: bool) -> ObjectEvent:
    thing = _without_secrets(event.object)
    old = encode_object(_without_secrets(event.old)) if with_old and event.old is not None else b""
    return ObjectEvent(action=event.action, table=event.table, object=encode_object(thing), old=old)


def _without_secrets(thing: Object) -> Object:
    match thing:
        case Cluster():
            return shown_cluster(thing)
        case Secret():
            return msgspec.structs.replace(thing, spec=msgspec.structs.replace(thing.spec, data=b""))
        case _:
            return thing
