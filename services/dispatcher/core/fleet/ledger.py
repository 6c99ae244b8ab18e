"""Which task holds what: the fleet's accounts, entered and crossed out task by task.

The scheduler tells it what the store says of each task (``hold``, ``release``; saying it twice changes nothing) and asks it for places.
What must stay true: the fleet counts exactly what is entered here, and named resources are with the task that was dealt them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

import msgspec

from services.dispatcher.core.fleet.bits import ALL, Bits
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import GENERIC, Group
from services.dispatcher.core.fleet.match import fits, possible
from services.dispatcher.core.fleet.planner import plan
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.specs import GenericResource

Dealt = tuple[GenericResource, ...]


class Placement(msgspec.Struct, frozen=True, gc=False):
    """Where a task goes, and what generic resources it was dealt."""

    node: NodeId
    generic: Dealt = ()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one task holds."""

    group: Group
    row: int
    dealt: Dealt = ()
    counted: bool = True


class Ledger:
    """All tasks that hold something."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.entries: dict[TaskId, Entry] = {}

    def hold(self, task: TaskId, group: Group, placement: Placement, *, counted: bool = True) -> None:
        """Enter a task with what it holds. One that is being stopped keeps its resources until it has ended, but counts no more."""
        entry = self.entries.get(task)
        if entry is not None and entry.group is group and self._is_at(entry, placement):
            if entry.counted != counted:
                self.fleet.count(group, entry.row, 1 if counted else -1)
                self.entries[task] = Entry(group, entry.row, entry.dealt, counted)
            return
        if entry is not None:
            self.release(task)
        row = self.fleet.row_for(placement.node)
        self.fleet.occupy(group, row)
        if counted:
            self.fleet.count(group, row)
        for resource in placement.generic:
            self.fleet.stock(row, resource.kind).claim(resource)
            self.fleet.restock(row, resource.kind)
        self.entries[task] = Entry(group, row, placement.generic, counted)

    def release(self, task: TaskId) -> bool:
        """Cross a task out; False when it was not entered."""
        entry = self.entries.pop(task, None)
        if entry is None:
            return False
        if entry.counted:
            self.fleet.discount(entry.group, entry.row)
        self.fleet.vacate(entry.group, entry.row)
        for resource in entry.dealt:
            self.fleet.stock(entry.row, resource.kind).claim(resource, -1)
            self.fleet.restock(entry.row, resource.kind)
        return True

    def place(self, group: Group, tasks: Sequence[TaskId], now: float, within: Bits = ALL) -> list[Placement]:
        """Choose places for tasks and enter them; the list is shorter than the tasks when no further node fits."""
        planned = plan(self.fleet, group, len(tasks), now, within)
        placements: list[Placement] = []
        for task, row in zip(tasks, _each(planned.rows.items()), strict=False):
            placements.append(self._enter(task, group, row))
        return placements

    def confirm(
        self, group: Group, tasks: Iterable[tuple[TaskId, NodeId]]
    ) -> Iterator[tuple[TaskId, Placement | None]]:
        """Enter tasks on the nodes they were made for, each with None when it does not fit there."""
        rows = possible(self.fleet, group)
        for task, node in tasks:
            row = self.fleet.row_of.get(node)
            if row is None or not rows >> row & 1 or not fits(self.fleet, group, row):
                yield task, None
                continue
            self.fleet.occupy(group, row)
            self.fleet.count(group, row)
            yield task, self._enter(task, group, row)

    def _enter(self, task: TaskId, group: Group, row: int) -> Placement:
        """Enter a task whose place the fleet counts already."""
        dealt = tuple(self._deal(group, row))
        self.entries[task] = Entry(group, row, dealt)
        return Placement(self.fleet.node_ids[row], dealt)

    def _deal(self, group: Group, row: int) -> Iterator[GenericResource]:
        for need in group.needs:
            if need.resource.startswith(GENERIC):
                kind = need.resource.removeprefix(GENERIC)
                yield self.fleet.stock(row, kind).deal(kind, need.amount)

    def _is_at(self, entry: Entry, placement: Placement) -> bool:
        return self.fleet.node_ids[entry.row] == placement.node and entry.dealt == placement.generic


def _each(rows: Iterable[tuple[int, int]]) -> Iterator[int]:
    for row, tasks in rows:
        yield from repeat(row, tasks)
