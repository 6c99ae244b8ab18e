"""The network between simulated machines: seeded delays, and everything that can be wrong with it.

Wraps the in-memory bus's network. What must stay true: with every fault ended all pairs of machines reach each other again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from services.kit.bus.memory import MemoryNetwork

CAST_TAG = 6
"""The kind of a frame that carries a cast: the only frames that may be lost (``kit.bus.api``: delivered at most once)."""
USUAL_MIN_S = 0.0003
USUAL_MAX_S = 0.003


class SimNetwork(MemoryNetwork):
    """See the module."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._slow: dict[frozenset[str], float] = {}
        self._held: dict[tuple[str, str], int] = {}
        self.loss = 0.0
        self.doubling = 0.0
        self.delay_s = self._delay
        self.copies = self._copies
        self.lost = 0

    # -- faults; each returns to normal when it was ended as often as it was begun

    def hold(self, source: str, target: str) -> None:
        """Stop one direction."""
        self._held[source, target] = self._held.get((source, target), 0) + 1
        self.stall(source, target)

    def release(self, source: str, target: str) -> None:
        """End one hold of a direction."""
        left = self._held.get((source, target), 0) - 1
        self._held[source, target] = max(left, 0)
        if left <= 0:
            self.resume(source, target)

    def split(self, side: Iterable[str], other: Iterable[str]) -> None:
        """Stop both directions between two groups."""
        rest = sorted(other)
        for a in sorted(side):
            for b in rest:
                self.hold(a, b)
                self.hold(b, a)

    def join(self, side: Iterable[str], other: Iterable[str]) -> None:
        """End a split."""
        rest = sorted(other)
        for a in sorted(side):
            for b in rest:
                self.release(a, b)
                self.release(b, a)

    def slow_down(self, host: str, other: str, most_s: float) -> None:
        """Make frames between two hosts take up to this long."""
        self._slow[frozenset((host, other))] = most_s

    def speed_up(self, host: str, other: str) -> None:
        """End a slowness."""
        self._slow.pop(frozenset((host, other)), None)

    def heal(self) -> None:
        """End everything."""
        self.loss = self.doubling = 0.0
        self._slow.clear()
        for source, target in sorted(self._held):
            self.resume(source, target)
        self._held.clear()

    def _delay(self, source: str, target: str) -> float:
        most_s = self._slow.get(frozenset((source, target)), USUAL_MAX_S)
        return self._rng.uniform(USUAL_MIN_S, most_s)

    def _copies(self, source: str, target: str, data: bytes) -> int:
        if not (self.loss or self.doubling) or len(data) < 2 or data[1] != CAST_TAG:
            return 1
        chance = self._rng.random()
        if chance < self.loss:
            self.lost += 1
            return 0
        return 2 if chance < self.loss + self.doubling else 1
