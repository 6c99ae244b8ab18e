"""Rows ordered by a small whole number, such as their number of tasks.

``up_to[l]`` is the set of rows at level l or lower. Because it is cumulative, one more task on a row flips one bit of one set, and the
lowest level among any candidates is found by bisection. What must stay true: ``up_to[-1]`` is all members, and no row is higher.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.dispatcher.core.fleet.bits import Bits, bits_of, rows_of


class Levels:
    """The level of every member row."""

    __slots__ = ("_lowest", "at", "members", "up_to")

    def __init__(self) -> None:
        self.at: list[int] = []
        self.members: Bits = 0
        self.up_to: list[Bits] = [0]
        self._lowest = 0
        """No member is below this level."""

    def grow(self, size: int) -> None:
        """Make room for rows below ``size``."""
        self.at.extend([0] * (size - len(self.at)))

    def join(self, row: int, level: int = 0) -> None:
        """Make a row a member."""
        bit = 1 << row
        self._reach(level)
        self.members |= bit
        self.at[row] = level
        for each in range(level, len(self.up_to)):
            self.up_to[each] |= bit
        self._lowest = min(self._lowest, level)

    def join_all(self, rows: Iterable[int]) -> None:
        """Make rows the first members, all on level 0."""
        self.members = bits_of(rows)
        self.up_to = [self.members]
        self._lowest = 0

    def leave(self, row: int) -> None:
        """End a row's membership."""
        bit = 1 << row
        self.members ^= bit
        for each in range(self.at[row], len(self.up_to)):
            self.up_to[each] ^= bit
        self.at[row] = 0
        if not self.members:
            self._lowest = 0

    def move(self, row: int, level: int) -> None:
        """Put a member on another level."""
        before = self.at[row]
        if level == before:
            return
        bit = 1 << row
        self._reach(level)
        self.at[row] = level
        low, high = (before, level) if before < level else (level, before)
        for each in range(low, high):
            self.up_to[each] ^= bit
        if level < self._lowest:
            self._lowest = level

    def raise_all(self, rows: list[int], bits: Bits, level: int) -> None:
        """Lift members that are all on ``level`` by one; ``bits`` is the set of ``rows``."""
        self._reach(level + 1)
        self.up_to[level] ^= bits
        above = level + 1
        for row in rows:
            self.at[row] = above

    def move_many(self, rows: Sequence[int], levels: Sequence[int]) -> None:
        """Put many members on other levels; makes all sets anew when that is less work."""
        if 4 * len(rows) < self.members.bit_count():
            for row, level in zip(rows, levels, strict=True):
                self.move(row, level)
            return
        for row, level in zip(rows, levels, strict=True):
            self.at[row] = level
        by_level: dict[int, list[int]] = {}
        for row in rows_of(self.members):
            by_level.setdefault(self.at[row], []).append(row)
        bits = 0
        self.up_to = []
        for level in range(max(by_level) + 1):
            if level in by_level:
                bits |= bits_of(by_level[level])
            self.up_to.append(bits)
        self._lowest = min(by_level)

    def lowest(self, candidates: Bits) -> tuple[int, Bits]:
        """Return the lowest level with a candidate, and the candidates on it. There must be a candidate, all of them members."""
        up_to = self.up_to
        low = self._lowest
        while not up_to[low]:
            low += 1
        self._lowest = low
        found = up_to[low] & candidates
        if found:
            return low, found
        low += 1
        high = len(up_to) - 1
        while low < high:
            middle = (low + high) >> 1
            if up_to[middle] & candidates:
                high = middle
            else:
                low = middle + 1
        return low, up_to[low] & candidates

    def _reach(self, level: int) -> None:
        while len(self.up_to) <= level:
            self.up_to.append(self.members)

    def check(self) -> None:
        """Assert that the sets say what the levels say."""
        for level, bits in enumerate(self.up_to):
            wanted = [row for row, at in enumerate(self.at) if self.members >> row & 1 and at <= level]
            assert bits == bits_of(wanted), f"level {level} is out of step"
        assert self.up_to[-1] == self.members, "a member is above all levels"
        assert not any(self.up_to[: self._lowest]), "a member is below the lowest level"
