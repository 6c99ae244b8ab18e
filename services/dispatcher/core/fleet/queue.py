"""Groups with tasks to place: which are worth a try, in which order, and which are blocked until something changes that can help them.

A group of which a task found no place is blocked with all groups that ask the same (its class). A blocked class is looked at only when
rows have improved, with one test for all of its groups, and woken only when one of those rows fits. The order of a pass: priority, then
fewest possible rows first, so that who is flexible does not take what others depend on.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import groupby

from services.dispatcher.core.fleet.bits import Bits, rows_of
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group, GroupKey
from services.dispatcher.core.fleet.match import possible

GroupClass = tuple[object, ...]


class Queue:
    """Ready and blocked groups."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ready: dict[GroupKey, Group] = {}
        self._blocked: dict[GroupClass, dict[GroupKey, Group]] = {}
        self._class_of: dict[GroupKey, GroupClass] = {}

    @property
    def has_ready(self) -> bool:
        """True when a group is worth a try."""
        return bool(self._ready)

    @property
    def has_blocked(self) -> bool:
        """True when a group waits for help."""
        return bool(self._blocked)

    def ready(self, group: Group) -> None:
        """Give a group a try."""
        self._unblock(group.key)
        self._ready[group.key] = group

    def is_ready(self, key: GroupKey) -> bool:
        """Tell whether a group is worth a try."""
        return key in self._ready

    def block(self, group: Group) -> None:
        """Let a group wait until a row improves that fits."""
        self.forget(group.key)
        self._fleet.sought.update(group.affinity)
        cls = class_of(self._fleet, group)
        self._blocked.setdefault(cls, {})[group.key] = group
        self._class_of[group.key] = cls

    def forget(self, key: GroupKey) -> None:
        """Drop a group that has nothing to place."""
        self._ready.pop(key, None)
        self._unblock(key)

    def is_blocked(self, group: Group) -> bool:
        """Tell whether any group of the same class is blocked."""
        return class_of(self._fleet, group) in self._blocked

    def blocked(self) -> Iterator[list[Group]]:
        """Yield the blocked groups, class by class."""
        for groups in list(self._blocked.values()):
            yield list(groups.values())

    def wake(self, improved: Bits) -> None:
        """Make those blocked groups ready that fit on an improved row."""
        if not improved:
            return
        for groups in list(self._blocked.values()):
            if opens(self._fleet, next(iter(groups.values())), improved):
                for group in list(groups.values()):
                    self.ready(group)

    def bands(self, most: int, always: Container[GroupKey]) -> list[list[Group]]:
        """Return the ready groups by priority, highest first, within it those with the fewest possible rows first.

        No more than the first ``most`` are looked at, and besides them those that have to be.
        """
        ordered = sorted(self._ready.values(), key=lambda group: -group.priority)
        ordered = [*ordered[:most], *(group for group in ordered[most:] if group.key in always)]
        if len(ordered) > 1:
            choice = {group.key: possible(self._fleet, group).bit_count() for group in ordered}
            ordered.sort(key=lambda group: (-group.priority, choice[group.key]))
        return [list(band) for _, band in groupby(ordered, key=lambda group: group.priority)]

    def _unblock(self, key: GroupKey) -> None:
        cls = self._class_of.pop(key, None)
        if cls is not None:
            del self._blocked[cls][key]
            if not self._blocked[cls]:
                del self._blocked[cls]


def class_of(fleet: Fleet, group: Group) -> GroupClass:
    """Return what groups have in common that fit on the same rows, as the fleet is now."""
    return (*group.signature, group.name) if group.name in fleet.shunned else group.signature


def opens(fleet: Fleet, group: Group, rows: Bits) -> bool:
    """Tell whether a group fits on any of these rows."""
    rows &= possible(fleet, group)
    sure = rows
    for need in group.needs:
        sure &= fleet.dimension(need.resource).from_class(need.size + 1)
    if sure or not rows:
        return bool(sure)
    needs = [(fleet.dimension(need.resource).free, need.amount) for need in group.needs]
    return any(all(free[row] >= amount for free, amount in needs) for row in rows_of(rows))


def is_scarce(fleet: Fleet, wanted: Iterable[tuple[Group, int]]) -> bool:
    """Tell whether groups want more in all than is free in all. A guess: what is free may be out of reach, or in pieces too small."""
    sums: dict[str, int] = {}
    for group, tasks in wanted:
        for need in group.needs:
            sums[need.resource] = sums.get(need.resource, 0) + need.amount * tasks
    return any(amount > sum(fleet.dimension(resource).free) for resource, amount in sums.items())
