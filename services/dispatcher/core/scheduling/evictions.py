"""Room that is being made: less important tasks that were told to stop, and for whom.

Until the last of its victims has ended and the group was tried, a row is kept from groups of lower priority: otherwise they would take
the room piece by piece as it comes free, and the group would evict for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.dispatcher.core.fleet.bits import Bits
from services.dispatcher.core.fleet.group import Group
from services.kit.model.ids import TaskId


@dataclass(slots=True)
class _Room:
    """One row on which room is made for one task of a group."""

    group: Group
    victims: set[TaskId] = field(default_factory=set)


class Evictions:
    """Evictions under way."""

    def __init__(self) -> None:
        self._rooms: dict[int, _Room] = {}
        self._row_of: dict[TaskId, int] = {}

    @property
    def victims(self) -> int:
        """Tasks that were told to stop and have not ended."""
        return len(self._row_of)

    def add(self, group: Group, row: int, victims: Iterable[TaskId]) -> None:
        """Note that tasks of a row are ended for a group."""
        room = self._rooms[row] = _Room(group, set(victims))
        self._row_of.update(dict.fromkeys(room.victims, row))

    def ended(self, task: TaskId) -> None:
        """Note that a task is over, or was not told to stop after all."""
        row = self._row_of.pop(task, None)
        if row is not None:
            self._rooms[row].victims.discard(task)

    def victims_for(self, group: Group) -> list[TaskId]:
        """Return the tasks that were told to stop for a group and have not ended."""
        return [task for room in self._rooms.values() if room.group is group for task in room.victims]

    def under_way_for(self, group: Group) -> int:
        """Return for how many tasks of a group room is being made."""
        return sum(room.group is group for room in self._rooms.values())

    def rows(self) -> Bits:
        """Return the rows on which room is being made."""
        bits = 0
        for row in self._rooms:
            bits |= 1 << row
        return bits

    def closed_to(self, priority: int) -> Bits:
        """Return the rows that are kept from groups of a priority."""
        bits = 0
        for row, room in self._rooms.items():
            if room.group.priority > priority:
                bits |= 1 << row
        return bits

    def settle(self, waits: Callable[[Group], bool]) -> Bits:
        """Forget rooms that are made, and those that nobody waits for any more; return their rows."""
        bits = 0
        for row, room in list(self._rooms.items()):
            if not room.victims or not waits(room.group):
                for task in room.victims:
                    del self._row_of[task]
                del self._rooms[row]
                bits |= 1 << row
        return bits
