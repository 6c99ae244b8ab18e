"""One resource of the fleet: how much of it is free on each row, and rows by the size of that amount.

Amounts fall into size classes, four to an octave. ``at_least[c]`` is the set of rows whose free amount is of class c or larger, so
"which rows may have room" is one set and "which rows surely have room" is the next one; only rows between the two are looked at one by
one. A row changes sets only when its amount crosses a class. What must stay true: the sets equal those made anew from ``free``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

from services.dispatcher.core.fleet.bits import Bits, bits_of, rows_of

_EXACT = 8
"""Amounts below this have a class of their own."""


def size_class(amount: int) -> int:
    """Return the size class of an amount; nothing and less than nothing are class 0."""
    if amount < _EXACT:
        return max(0, amount)
    shift = amount.bit_length() - 3
    return (shift << 2) + (amount >> shift)


def least_of(cls: int) -> int:
    """Return the smallest amount of a class."""
    if cls < _EXACT:
        return cls
    shift = (cls >> 2) - 1
    return (cls - (shift << 2)) << shift


class Dimension:
    """Free amounts of one resource."""

    __slots__ = ("_floor", "at_least", "capacity", "free")

    def __init__(self, size: int) -> None:
        self.free: list[int] = [0] * size
        """Per row; below zero when more is held than the node offers."""
        self.capacity: list[int] = [0] * size
        self.at_least: list[Bits] = [0]
        """By size class; class 0 holds nothing, since nobody asks for it."""
        self._floor: list[int] = [0] * size
        """Smallest amount of the class a row is in."""

    def grow(self, size: int) -> None:
        """Make room for rows below ``size``."""
        for column in (self.free, self.capacity, self._floor):
            column.extend([0] * (size - len(column)))

    def offer(self, row: int, capacity: int) -> None:
        """Change what a row has in all; what is held stays held."""
        self.set(row, self.free[row] + capacity - self.capacity[row])
        self.capacity[row] = capacity

    def offer_all(self, rows: Sequence[int], capacities: Sequence[int]) -> None:
        """Say what many rows have in all; nothing is held anywhere yet."""
        by_class: dict[int, list[int]] = {}
        for row, capacity in zip(rows, capacities, strict=True):
            self.free[row] = self.capacity[row] = capacity
            by_class.setdefault(size_class(capacity), []).append(row)
        bits = 0
        self.at_least = [0] * (max(by_class, default=0) + 1)
        for cls in range(len(self.at_least) - 1, 0, -1):
            bits |= bits_of(by_class.get(cls, ()))
            self.at_least[cls] = bits
        for cls, found in by_class.items():
            least = least_of(cls)
            for row in found:
                self._floor[row] = least

    def set(self, row: int, amount: int) -> None:
        """Change what is free on a row."""
        before = self.free[row]
        self.free[row] = amount
        floor = self._floor[row]
        if floor <= amount <= before:
            return
        old, new = size_class(floor), size_class(amount)
        if old != new:
            self._shift(1 << row, old, new)
            self._floor[row] = least_of(new)

    def take_from_all(self, rows: Sequence[int], amount: int) -> None:
        """Take the same amount from many rows."""
        self.take_many(rows, repeat(amount, len(rows)))

    def take_many(self, rows: Sequence[int], amounts: Iterable[int]) -> None:
        """Take an amount from each of many rows, moving those that change class together."""
        free, floors = self.free, self._floor
        crossing: dict[tuple[int, int], list[int]] = {}
        for row, amount in zip(rows, amounts, strict=True):
            left = free[row] - amount
            free[row] = left
            if left < floors[row]:
                crossing.setdefault((floors[row], size_class(left)), []).append(row)
        for (floor, new), moved in crossing.items():
            self._shift(bits_of(moved), size_class(floor), new)
            least = least_of(new)
            for row in moved:
                floors[row] = least

    def from_class(self, cls: int) -> Bits:
        """Return the rows whose free amount is of this class or larger."""
        return self.at_least[cls] if cls < len(self.at_least) else 0

    def exactly(self, amount: int) -> Bits:
        """Return the rows on which at least this amount is free."""
        cls = size_class(amount)
        surely = self.from_class(cls + 1)
        between = self.from_class(cls) ^ surely
        free = self.free
        return surely | bits_of(row for row in rows_of(between) if free[row] >= amount)

    def _shift(self, bits: Bits, old: int, new: int) -> None:
        """Move rows from one class to another."""
        at_least = self.at_least
        while len(at_least) <= new:
            at_least.append(0)
        low, high = (old, new) if old < new else (new, old)
        for cls in range(low + 1, high + 1):
            at_least[cls] ^= bits

    def check(self) -> None:
        """Assert that the sets say what the amounts say."""
        classes = [size_class(amount) for amount in self.free]
        assert self._floor == [least_of(cls) for cls in classes], "a row's class is out of step"
        for cls, bits in enumerate(self.at_least[1:], start=1):
            assert bits == bits_of(row for row, at in enumerate(classes) if at >= cls), f"class {cls} is out of step"
        assert max(classes, default=0) < len(self.at_least), "a row is above all classes"
