"""The tasks of one service, by row: what spreading compares first.

``levels`` are the sets of rows with one task, with two, and so on; for a service on many rows they are kept as tasks come and go, for
one on a few rows they are made when asked for. ``branches`` counts the tasks below every branch of the service's preference tree, from
its first plan with that tree on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.dispatcher.core.fleet.bits import Bits, bits_of

_KEEP_FROM = 16
"""Rows from which on levels are kept."""

Path = tuple[str, ...]
"""Values of the preferences' labels, from the root of the tree down."""


@dataclass(slots=True)
class Branches:
    """Tasks by branch, for one list of preferences at one time of the labels."""

    preferences: tuple[str, ...]
    epoch: int
    path_of: Callable[[int], Path]
    tasks: dict[Path, int] = field(default_factory=dict)

    def add(self, row: int, tasks: int) -> None:
        """Count tasks of a row in all branches above it."""
        path = self.path_of(row)
        for depth in range(1, len(path) + 1):
            self.tasks[path[:depth]] = self.tasks.get(path[:depth], 0) + tasks


class Account:
    """Where a service's tasks are."""

    __slots__ = ("_levels", "_occupied", "branches", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[int, int] = {}
        """Number of tasks by row, without rows that have none."""
        self._levels: dict[int, Bits] | None = None
        self._occupied: Bits = 0
        self.branches: Branches | None = None

    @property
    def occupied(self) -> Bits:
        """Rows with at least one task."""
        return bits_of(self.tasks) if self._levels is None else self._occupied

    def levels(self) -> Mapping[int, Bits]:
        """Return the rows by their number of tasks."""
        if self._levels is not None:
            return self._levels
        levels = self._made_anew()
        if len(self.tasks) >= _KEEP_FROM:
            self._levels, self._occupied = levels, bits_of(self.tasks)
        return levels

    def at_least(self, tasks: int) -> Bits:
        """Return the rows with so many tasks or more."""
        bits = 0
        for count, rows in self.levels().items():
            if count >= tasks:
                bits |= rows
        return bits

    def add(self, row: int, tasks: int) -> None:
        """Count tasks in (or, below zero, out)."""
        before = self.tasks.get(row, 0)
        after = before + tasks
        if after:
            self.tasks[row] = after
        else:
            self.tasks.pop(row, None)
        if self._levels is not None:
            self._shift(1 << row, before, after)
        if self.branches is not None:
            self.branches.add(row, tasks)

    def add_one_each(self, rows: list[int], bits: Bits, before: int | None) -> None:
        """Count one task in on each of many rows; ``before`` says how many each has, when that is known and the same."""
        if before is None or self._levels is None:
            for row in rows:
                self.add(row, 1)
            return
        self.tasks.update(dict.fromkeys(rows, before + 1))
        self._shift(bits, before, before + 1)
        if self.branches is not None:
            for row in rows:
                self.branches.add(row, 1)

    def add_many(self, rows: list[int], tasks: list[int]) -> None:
        """Count some tasks in on each of many rows."""
        self._levels = None
        for row, count in zip(rows, tasks, strict=True):
            self.add(row, count)

    def _shift(self, bits: Bits, before: int, after: int) -> None:
        levels = self._levels
        assert levels is not None
        if before:
            left = levels[before] ^ bits
            if left:
                levels[before] = left
            else:
                del levels[before]
        else:
            self._occupied |= bits
        if after:
            levels[after] = levels.get(after, 0) | bits
        else:
            self._occupied ^= bits

    def _made_anew(self) -> dict[int, Bits]:
        rows: dict[int, list[int]] = {}
        for row, count in self.tasks.items():
            rows.setdefault(count, []).append(row)
        return {count: bits_of(found) for count, found in rows.items()}

    def check(self) -> None:
        """Assert that the levels say what the counts say."""
        assert all(count > 0 for count in self.tasks.values()), "a row counts without tasks"
        if self._levels is not None:
            assert self._levels == self._made_anew(), "the levels of a service are out of step"
            assert self._occupied == bits_of(self.tasks), "the rows of a service are out of step"
