"""A plan in the making: takes rows for one group and keeps what it took. The planners (spread, tree, pack) work through it."""

from __future__ import annotations

from services.dispatcher.core.fleet.bits import Bits
from services.dispatcher.core.fleet.dimension import Dimension
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.dispatcher.core.fleet.levels import Levels
from services.kit.model.states import PlacementStrategy


class Draft:
    """Placements of one group; whatever is taken is taken from the fleet at once."""

    __slots__ = ("_needs", "fleet", "group", "levels", "penalties", "taken")

    def __init__(self, fleet: Fleet, group: Group, penalties: dict[int, int]) -> None:
        self.fleet = fleet
        self.group = group
        self.penalties = penalties
        """Recent failures of rows that are chosen last."""
        self.taken: dict[int, int] = {}
        """Tasks by row."""
        self.levels: Levels = fleet.loaded() if group.strategy is PlacementStrategy.LOAD else fleet.totals
        """What breaks ties between rows with as many tasks of the service."""
        self._needs: list[tuple[Dimension, int, int]] = [
            (fleet.dimension(need.resource), need.amount, need.size) for need in group.needs
        ]

    @property
    def at_most_once(self) -> bool:
        """True when no row can have two tasks of the group."""
        return bool(self.group.host_ports)

    def maybe(self, rows: Bits) -> Bits:
        """Return the rows that may have room, by size class; all that have room are among them."""
        for dimension, _, size in self._needs:
            rows &= dimension.from_class(size)
        return rows

    def surely(self, rows: Bits) -> Bits:
        """Return rows that have room without doubt."""
        for dimension, _, size in self._needs:
            rows &= dimension.from_class(size + 1)
        return rows

    def has_room(self, row: int) -> bool:
        """Tell whether a row has room for another task, exactly."""
        return all(dimension.free[row] >= amount for dimension, amount, _ in self._needs)

    def room(self, row: int, wanted: int) -> int:
        """Return how many tasks, up to ``wanted``, a row can have besides what it has."""
        for dimension, amount, _ in self._needs:
            wanted = min(wanted, dimension.free[row] // amount)
        if self.at_most_once:
            wanted = min(wanted, 1 - self.taken.get(row, 0))
        if wanted > 0 and self.group.max_replicas:
            wanted = min(wanted, self.group.max_replicas - self.tasks_on(row))
        return max(wanted, 0)

    def tasks_on(self, row: int) -> int:
        """Return the service's tasks on a row."""
        account = self.fleet.accounts.get(self.group.service)
        return 0 if account is None else account.tasks.get(row, 0)

    def take(self, row: int, tasks: int = 1) -> None:
        """Place tasks on a row."""
        self.fleet.occupy(self.group, row, tasks)
        self.fleet.count(self.group, row, tasks)
        self.taken[row] = self.taken.get(row, 0) + tasks

    def take_one_each(self, rows: list[int], bits: Bits, level: int, before: int) -> None:
        """Place a task on each of many rows that are on one level and have ``before`` tasks of the service."""
        total = level if self.levels is self.fleet.totals else None
        self.fleet.take_one_each(self.group, rows, bits, total, before)
        taken = self.taken
        if taken:
            for row in rows:
                taken[row] = taken.get(row, 0) + 1
        else:
            taken.update(dict.fromkeys(rows, 1))

    def take_many(self, rows: list[int], tasks: list[int]) -> None:
        """Place some tasks on each of many rows."""
        self.fleet.take_many(self.group, rows, tasks)
        for row, count in zip(rows, tasks, strict=True):
            self.taken[row] = self.taken.get(row, 0) + count
