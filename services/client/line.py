"""One line to the control API: dials, asks, and repeats what is safe to repeat until the deadline. Used by every noun of the client.

A call is repeated when the answer says that it did not run (``Unavailable`` without ``maybe_executed``), and also after an unknown
outcome when running it twice does no harm: idempotent methods, and those that carry a request id. The first dial is not repeated: a
socket that nobody listens on is a mistake worth knowing at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from services.kit.bus.api import Bus, Connection, LocalAddress, Meta
from services.kit.errors import DeadlineExceeded, NotFound, Unavailable
from services.kit.messages.method import Call, Feed
from services.kit.model.value import Value
from services.kit.runtime.clock import Clock
from services.kit.runtime.ids import IdSource
from services.kit.store.line import BackOff, Line

RequestT = TypeVar("RequestT", bound=Value)
ReplyT = TypeVar("ReplyT", bound=Value)
ItemT = TypeVar("ItemT", bound=Value)

DIAL_TIMEOUT_S = 5.0


class NobodyListens(Unavailable):
    """Nothing answers on the control socket: no node runs here, or the path is wrong."""


class ControlLine:
    """The connection of one client, redialled when it breaks."""

    def __init__(self, bus: Bus, socket: str, *, timeout_s: float, clock: Clock, ids: IdSource) -> None:
        self.socket = socket
        self.timeout_s = timeout_s
        self.clock = clock
        self._bus = bus
        self._ids = ids
        self._line = Line(self._dial)
        self._reached = False

    async def open(self) -> None:
        """Dial once; raises NobodyListens."""
        try:
            await self._line.connection()
        except (Unavailable, DeadlineExceeded) as error:
            raise NobodyListens(f"nobody listens on the control socket {self.socket}") from error
        self._reached = True

    def request_id(self) -> str:
        """Return a fresh idempotency key."""
        return self._ids.new("request")

    async def call(
        self, method: Call[RequestT, ReplyT], request: RequestT, *, repeatable: bool | None = None, request_id: str = ""
    ) -> ReplyT:
        """Ask, and ask again while that is safe and time is left; raises a SwarmError.

        ``repeatable`` says whether running the call twice does no harm; the method's own word is the default.
        """
        safe = method.idempotent if repeatable is None else repeatable
        patience = Patience(self)
        while True:
            try:
                connection = await self._connection()
                meta = Meta(request_id=request_id)
                return await connection.call(method, request, timeout_s=patience.left_s, meta=meta)
            except Unavailable as error:
                if error.details.maybe_executed and not safe:
                    raise
                await patience.wait(error)

    async def remove(self, method: Call[RequestT, ReplyT], request: RequestT) -> None:
        """Call what removes an object; after an unknown outcome a missing object means that it is done. Raises a SwarmError."""
        unsure = False
        patience = Patience(self)
        while True:
            try:
                await self.call(method, request)
            except NotFound:
                if not unsure:
                    raise
            except Unavailable as error:
                if not error.details.maybe_executed:
                    raise
                unsure = True
                await patience.wait(error)
                continue
            return

    @asynccontextmanager
    async def stream(self, method: Feed[RequestT, ItemT], request: RequestT) -> AsyncIterator[AsyncIterator[ItemT]]:
        """Open a stream on a live connection; it ends with the connection."""
        connection = await self._connection()
        async with connection.open(method, request) as items:
            yield items

    async def close(self) -> None:
        """Say goodbye; idempotent."""
        await self._line.close()

    async def _connection(self) -> Connection:
        if not self._reached:
            await self.open()
        return await self._line.connection()

    async def _dial(self) -> Connection:
        return await self._bus.dial(LocalAddress(path=self.socket), timeout_s=min(DIAL_TIMEOUT_S, self.timeout_s))


class Patience:
    """How long one line goes on trying: its timeout, counted from the last success."""

    def __init__(self, line: ControlLine) -> None:
        self._clock = line.clock
        self._timeout_s = line.timeout_s
        self._back_off = BackOff()
        self._deadline = 0.0
        self.reset()

    @property
    def left_s(self) -> float:
        """Seconds left, never quite zero."""
        return max(0.001, self._deadline - self._clock.monotonic())

    def reset(self) -> None:
        """Start anew after a success."""
        self._deadline = self._clock.monotonic() + self._timeout_s
        self._back_off.reset()

    async def wait(self, error: Unavailable) -> None:
        """Wait before the next attempt, or raise the error when time is up or trying again cannot help."""
        if isinstance(error, NobodyListens) or self._clock.monotonic() >= self._deadline:
            raise error
        if error.details.retry_ms:
            await asyncio.sleep(min(self.left_s, error.details.retry_ms / 1000))
        else:
            await self._back_off.wait(at_most_s=self.left_s)
