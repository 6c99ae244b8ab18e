"""Time, asked of an object so that tests and the simulator can own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for intervals, one for certificates and for people."""

    def monotonic(self) -> float:
        """Seconds that never go back; for every timeout and deadline."""

    def wall(self) -> float:
        """Seconds since the epoch; for certificates and for display, never for timeouts."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return the machine's monotonic clock."""
        return time.monotonic()

    def wall(self) -> float:
        """Return the machine's wall clock."""
        return time.time()


class ManualClock:
    """A clock that moves when told to."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        """Return the set time."""
        return self._monotonic

    def wall(self) -> float:
        """Return the set time of day."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0, "time does not go back"
        self._monotonic += seconds
        self._wall += seconds
