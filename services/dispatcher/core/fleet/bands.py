"""What each row's tasks use, by priority: how much room there would be if everything less important left."""

from __future__ import annotations

from collections.abc import Iterable

from services.dispatcher.core.fleet.group import Group


class Bands:
    """Amounts in use by priority, resource and row."""

    __slots__ = ("_used",)

    def __init__(self, held: Iterable[tuple[int, Group]]) -> None:
        self._used: dict[int, dict[str, dict[int, int]]] = {}
        for row, group in held:
            self.add(group, row, 1)

    def add(self, group: Group, row: int, tasks: int) -> None:
        """Count tasks of a group in (or, below zero, out)."""
        band = self._used.setdefault(group.priority, {})
        for need in group.needs:
            rows = band.setdefault(need.resource, {})
            amount = rows.get(row, 0) + tasks * need.amount
            if amount:
                rows[row] = amount
            else:
                rows.pop(row, None)

    def below(self, priority: int) -> list[int]:
        """Return the lower priorities that something is used at, lowest first."""
        return sorted(each for each, band in self._used.items() if each < priority and any(band.values()))

    def used(self, priority: int, resource: str, row: int) -> int:
        """Return what tasks of exactly this priority use of a row."""
        return self._used.get(priority, {}).get(resource, {}).get(row, 0)
