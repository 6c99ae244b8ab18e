"""Following objects: the watch stream, opened again when it breaks. Used by ``Client.watch`` and by waiting for convergence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Final, Self

from msgspec.structs import replace

from services.client.line import ControlLine, Patience
from services.kit.errors import SwarmError, Unavailable
from services.kit.messages import control
from services.kit.model.objects import Object
from services.kit.model.value import Value
from services.kit.runtime.tasks import TaskOwner
from services.kit.state.tables import Table, decode_object

BATCHES_MAX = 64
"""Transactions that wait for a slow reader; then the stream's credit holds the server back."""


class ObjectChange(Value, frozen=True, kw_only=True):
    """What happened to one object."""

    version: int
    """Of the transaction; give it to ``watch`` to go on behind it."""
    action: str
    """create, update or remove."""
    table: Table
    object: Object
    """As it is now; for a remove, as it was last."""
    actor: str = ""
    """Who made the transaction."""
    cause: str = ""
    """The method that was called, or the loops that decided."""
    at: float = 0.0
    """When, in seconds since the epoch."""


class Opened(Value, frozen=True, kw_only=True):
    """The stream was (re)opened: what happened before is not told, read the objects now."""


OPENED: Final = Opened()


def changes_of(item: control.ObjectEvents) -> tuple[ObjectChange, ...]:
    """Return the decoded events of one transaction."""
    return tuple(
        ObjectChange(
            version=item.version,
            action=event.action,
            table=Table(event.table),
            object=decode_object(Table(event.table), event.object),
            actor=item.actor,
            cause=item.cause,
            at=item.at,
        )
        for event in item.events
    )


async def watch(line: ControlLine, request: control.WatchObjects) -> AsyncGenerator[ObjectChange, None]:
    """Yield changes in order and without gaps; a broken stream goes on behind the last version seen.

    Raises Unavailable when it could not be opened again for the client's timeout, and what the server refuses with.
    """
    patience = Patience(line)
    while True:
        try:
            async with line.stream(control.WATCH, request) as items:
                async for item in items:
                    patience.reset()
                    for change in changes_of(item):
                        yield change
                    request = replace(request, version=item.version)
        except Unavailable as error:
            await patience.wait(error)
        else:
            await patience.wait(Unavailable("the watch ended"))


class Follower:
    """A watch that starts anew after each break, for readers that keep a picture of their own.

    ``async with`` returns when the stream is open; every (re)opening is told as OPENED, the first one included.
    """

    def __init__(self, line: ControlLine, request: control.WatchObjects) -> None:
        self._line = line
        self._request = request
        self._queue: asyncio.Queue[control.ObjectEvents | Opened | SwarmError] = asyncio.Queue(BATCHES_MAX)
        self._owner = TaskOwner("follower")

    async def __aenter__(self) -> Self:
        self._owner.spawn("pump", self._pump())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._owner.close()

    async def next(self, *, timeout_s: float | None = None) -> control.ObjectEvents | Opened | None:
        """Return what happened next, or None when nothing did for ``timeout_s``; raises what ended the stream for good."""
        try:
            async with asyncio.timeout(timeout_s):
                item = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(item, SwarmError):
            raise item
        return item

    async def _pump(self) -> None:
        patience = Patience(self._line)
        try:
            while True:
                try:
                    async with self._line.stream(control.WATCH, self._request) as items:
                        fresh = True
                        async for item in items:
                            patience.reset()
                            await self._queue.put(OPENED if fresh else item)
                            fresh = False
                except Unavailable as error:
                    await patience.wait(error)
                else:
                    await patience.wait(Unavailable("the watch ended"))
        except SwarmError as error:
            await self._queue.put(error)
