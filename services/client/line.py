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
from services.kit.errors import DeadlineExceeded, SwarmError, Unavailable
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
        self._bus = bus
        self._clock = clock
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
        deadline = self._clock.monotonic() + self.timeout_s
        back_off = BackOff()
        while True:
            left_s = deadline - self._clock.monotonic()
            try:
                connection = await self._connection()
                return await connection.call(
                    method, request, timeout_s=max(0.001, left_s), meta=Meta(request_id=request_id)
                )
            except Unavailable as error:
                wait_s = max(0.0, deadline - self._clock.monotonic())
                if wait_s <= 0 or isinstance(error, NobodyListens) or not (safe or not error.details.maybe_executed):
                    raise
                if error.details.retry_ms:
                    await asyncio.sleep(min(wait_s, error.details.retry_ms / 1000))
                else:
                    await back_off.wait(at_most_s=wait_s)

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


def outcome_is_unknown(error: SwarmError) -> bool:
    """Tell whether a failed call may have had its effect."""
    return isinstance(error, DeadlineExceeded) or error.details.maybe_executed
