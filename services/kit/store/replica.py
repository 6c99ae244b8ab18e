"""A copy of the store in this process, kept by a watch: what planners and handlers read.

The dispatcher and the ca each own one. What must stay true: batches come in the order of their versions and without gaps, the state
is exactly that of the last batch handed out, and a re-sync looks like ordinary changes (it carries the difference).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from services.kit.bus.api import Connection
from services.kit.errors import ResourceExhausted, Unavailable
from services.kit.messages import store
from services.kit.state.state import Event, State
from services.kit.state.tables import TYPES, Table
from services.kit.state.transaction import NOBODY, Action, Change, Origin
from services.kit.store.line import BackOff, Dial, Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one transaction changed, or (``reset``) the difference that a re-sync made."""

    version: int
    events: tuple[Event, ...]
    reset: bool = False
    origin: Origin = NOBODY


Listener = Callable[[Batch], None]


class Replica:
    """Keeps a State fed. Drive it in one of two ways: iterate ``follow``, or spawn ``run`` and ``listen``."""

    def __init__(self, dial: Dial, tables: tuple[Table, ...] = ()) -> None:
        """``tables`` are those that the copy holds, all when none is named; of the others its owner hears nothing."""
        self.state = State()
        self._tables = tables
        self._line = Line(dial)
        self._listeners: list[Listener] = []
        self._synced = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def version(self) -> int:
        """Version of the state."""
        return self.state.version

    @property
    def synced(self) -> bool:
        """True once the first full state has arrived."""
        return self._synced

    def listen(self, listener: Listener) -> None:
        """Call the listener with each batch, right after it was taken into the state."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow until cancelled; for owners that listen instead of iterating."""
        async for _ in self.follow():
            pass

    async def follow(self) -> AsyncIterator[Batch]:
        """Yield batch after batch, through disconnects; the state moves only when the next batch is asked for."""
        back_off = BackOff()
        while True:
            try:
                connection = await self._line.connection()
                async for batch in self._batches(connection):
                    back_off.reset()
                    yield batch
            except (Unavailable, ResourceExhausted):
                pass
            await back_off.wait()

    async def wait_version(self, version: int) -> None:
        """Wait until the state is at this version or behind it; bound it with a timeout of your own."""
        if self._synced and self.state.version >= version:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((version, future))
        await future

    async def close(self) -> None:
        """Release the connection; idempotent."""
        await self._line.close()

    async def _batches(self, connection: Connection) -> AsyncIterator[Batch]:
        full: list[Change] | None = None
        request = store.WatchRequest(version=self.state.version if self._synced else 0, tables=self._tables)
        async with connection.open(store.WATCH, request) as items:
            async for item in items:
                if item.reset:
                    full = []
                if full is None:
                    yield self._take(item.version, item.changes, origin=item.origin)
                    continue
                full.extend(item.changes)
                if item.synced:
                    changes, full = difference(self.state, full), None
                    yield self._take(item.version, changes, reset=True)

    def _take(self, version: int, changes: Iterable[Change], *, reset: bool = False, origin: Origin = NOBODY) -> Batch:
        follows = version > self.state.version if self._tables else version == self.state.version + 1
        assert reset or follows, f"watch jumped from {self.state.version} to {version}"
        events = tuple(self.state.absorb(version, tuple(changes), origin.at))
        batch = Batch(version=version, events=events, reset=reset, origin=origin)
        self._synced = True
        for listener in self._listeners:
            listener(batch)
        self._wake(version)
        return batch

    def _wake(self, version: int) -> None:
        waiting, self._waiters = self._waiters, []
        for wanted, future in waiting:
            if wanted > version:
                self._waiters.append((wanted, future))
            elif not future.done():
                future.set_result(None)


def difference(state: State, full: list[Change]) -> list[Change]:
    """Return the changes that turn a state into the given full state: removes (users before what they use), then the rest."""
    wanted: dict[Table, dict[str, Change]] = {table: {} for table in TYPES}
    for change in full:
        wanted[change.table][change.id] = change
    current: dict[Table, dict[str, Change]] = {table: {} for table in TYPES}
    for change in state.full():
        current[change.table][change.id] = change
    removes = [
        Change(action=Action.REMOVE, table=table, id=gone.id, object=gone.object)
        for table in reversed(TYPES)
        for gone in current[table].values()
        if gone.id not in wanted[table]
    ]
    writes: list[Change] = []
    for table in TYPES:
        for change in wanted[table].values():
            known = current[table].get(change.id)
            if known is None:
                writes.append(change)
            elif known.object != change.object:
                writes.append(Change(action=Action.UPDATE, table=table, id=change.id, object=change.object))
    return removes + writes
