"""Telling any number of waiters that something changed. Waiters look at the level, not at the edge: ``while not there: await wait()``."""

from __future__ import annotations

import asyncio


class Changes:
    """Wakes everybody who waits, each time something is announced."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def announce(self) -> None:
        """Wake everybody who waits now."""
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    async def wait(self) -> None:
        """Wait for the next announcement."""
        await self._next.wait()
