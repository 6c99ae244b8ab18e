"""Waking streams: each has a bell, and is told when the term that it lives in is over."""

from __future__ import annotations

import asyncio

from services.kit.errors import SwarmError


class Bell:
    """Wakes one stream; raises in it once it was broken."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._broken: SwarmError | None = None

    def ring(self) -> None:
        """There is something to do."""
        self._rung.set()

    def break_(self, why: SwarmError) -> None:
        """End the stream with this error."""
        if self._broken is None:
            self._broken = why
        self._rung.set()

    def check(self) -> None:
        """Raise what ended the stream, if anything did."""
        if self._broken is not None:
            raise type(self._broken)(self._broken.message, self._broken.details)

    async def wait(self) -> None:
        """Wait for the next ring."""
        self.check()
        await self._rung.wait()
        self._rung.clear()
        self.check()


class Bells:
    """The bells of all streams of one kind."""

    def __init__(self) -> None:
        self._bells: dict[Bell, None] = {}

    def add(self) -> Bell:
        """Return a new bell."""
        bell = Bell()
        self._bells[bell] = None
        return bell

    def remove(self, bell: Bell) -> None:
        """The stream is over."""
        self._bells.pop(bell, None)

    def ring(self) -> None:
        """Wake all."""
        for bell in self._bells:
            bell.ring()

    def break_(self, why: SwarmError) -> None:
        """End all."""
        for bell in list(self._bells):
            bell.break_(why)
