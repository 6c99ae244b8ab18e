"""Things that a row can have once, such as a host port in use: who asks gets the set of rows that have it. Kept by the fleet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from services.dispatcher.core.fleet.bits import Bits, bits_of

KeyT = TypeVar("KeyT", bound=Hashable)


class _Mark:
    __slots__ = ("bits", "holders")

    def __init__(self) -> None:
        self.bits: Bits = 0
        self.holders: dict[int, int] = {}


class Marks(Generic[KeyT]):
    """Rows by mark; a mark that several tasks of a row hold stays until the last one is gone."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: dict[KeyT, _Mark] = {}

    def rows(self, key: KeyT) -> Bits:
        """Return the rows that have a mark."""
        mark = self._marks.get(key)
        return 0 if mark is None else mark.bits

    def __contains__(self, key: KeyT) -> bool:
        """Tell whether any row has a mark."""
        return key in self._marks

    def add(self, key: KeyT, row: int, holders: int) -> None:
        """Count holders of a mark in (or, below zero, out)."""
        mark = self._marks.get(key)
        if mark is None:
            mark = self._marks[key] = _Mark()
        count = mark.holders.get(row, 0) + holders
        if count:
            mark.holders[row] = count
            mark.bits |= 1 << row
            return
        mark.holders.pop(row, None)
        mark.bits &= ~(1 << row)
        if not mark.holders:
            del self._marks[key]

    def holders(self) -> Mapping[KeyT, Mapping[int, int]]:
        """Return everything that is known, for checks."""
        return {key: mark.holders for key, mark in self._marks.items()}

    def check(self) -> None:
        """Assert that the sets say what the counts say."""
        for key, mark in self._marks.items():
            assert mark.holders, f"mark {key} is held by nobody"
            assert all(count > 0 for count in mark.holders.values()), f"mark {key} is held less than never"
            assert mark.bits == bits_of(mark.holders), f"mark {key} is out of step"
