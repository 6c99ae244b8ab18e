"""A line to the node's raft process that is dialled again when it breaks. Used by the client and the replica of this package.

A bus connection does not come back once lost; a ``Line`` hands out a live one, and makes all who need one wait for the same dial.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.kit.bus.api import Bus, Connection, LocalAddress

Dial = Callable[[], Awaitable[Connection]]

BACK_OFF_FIRST_S = 0.02
BACK_OFF_MAX_S = 1.0


def local(bus: Bus, path: str) -> Dial:
    """Return the dial of a local socket."""

    async def dial() -> Connection:
        return await bus.dial(LocalAddress(path=path))

    return dial


class BackOff:
    """How long to wait before the next attempt: doubles up to a bound, starts anew after a success."""

    def __init__(self, first_s: float = BACK_OFF_FIRST_S, max_s: float = BACK_OFF_MAX_S) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    def reset(self) -> None:
        """Start anew."""
        self._next_s = self._first_s

    async def wait(self, *, at_most_s: float | None = None) -> None:
        """Wait for the current delay and double it."""
        delay_s, self._next_s = self._next_s, min(self._next_s * 2, self._max_s)
        await asyncio.sleep(delay_s if at_most_s is None else max(0.0, min(delay_s, at_most_s)))


class Line:
    """One connection at a time, made when somebody needs it."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    async def connection(self) -> Connection:
        """Return a live connection; one attempt to dial, whose error is raised."""
        async with self._lock:
            if self._connection is None or self._connection.lost is not None:
                self._connection = None
                self._connection = await self._dial()
            return self._connection

    async def close(self) -> None:
        """Say goodbye; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
