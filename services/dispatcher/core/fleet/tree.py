"""Spreading over preferences: even over the values of the first label, within each over those of the second, and so on down to rows.

A branch weighs what the service has below it on all rows, whether they fit or not. Nobody knows beforehand how much a branch can take:
it is asked for its share, and when it falls short it is full and the others share the rest.
"""

from __future__ import annotations

from services.dispatcher.core.fleet.account import Branches, Path
from services.dispatcher.core.fleet.bits import Bits
from services.dispatcher.core.fleet.draft import Draft
from services.dispatcher.core.fleet.fill import fill
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.dispatcher.core.fleet.spread import spread


def spread_over_tree(draft: Draft, wanted: int, rows: Bits) -> int:
    """Place up to ``wanted`` tasks on these rows, branch by branch, and return how many are left over."""
    branches = branches_of(draft.fleet, draft.group)
    return _Tree(draft, branches).place((), rows, wanted)


def branches_of(fleet: Fleet, group: Group) -> Branches:
    """Return the service's tasks by branch, counted anew when preferences or labels have changed."""
    account = fleet.account_of(group)
    branches = account.branches
    if branches is None or branches.epoch != fleet.facts_epoch or branches.preferences != group.preferences:
        preferences = group.preferences
        branches = Branches(preferences, fleet.facts_epoch, lambda row: fleet.labels(row, preferences))
        for row, tasks in account.tasks.items():
            branches.add(row, tasks)
        account.branches = branches
    return branches


class _Tree:
    """One walk down the tree."""

    def __init__(self, draft: Draft, branches: Branches) -> None:
        self._draft = draft
        self._tasks = branches.tasks
        self._preferences = branches.preferences

    def place(self, path: Path, rows: Bits, wanted: int) -> int:
        """Place up to ``wanted`` tasks below a branch; return how many are left over."""
        if len(path) == len(self._preferences):
            return spread(self._draft, wanted, self._draft.maybe(rows))
        below = self._below(path, rows)
        if len(below) == 1:
            return self.place(*below[0], wanted)
        return self._share(below, wanted)

    def _share(self, below: list[tuple[Path, Bits]], left: int) -> int:
        """Share tasks between branches until none are left or all branches are full."""
        levels = self._draft.levels
        while left and below:
            have = [self._tasks.get(path, 0) for path, _ in below]
            ties = [levels.lowest(rows)[0] for _, rows in below]
            full = []
            for index, share in enumerate(fill(have, ties, left)):
                if not share:
                    continue
                short = self.place(*below[index], share)
                left -= share - short
                if short:
                    full.append(index)
            if not full:
                break
            below = [branch for index, branch in enumerate(below) if index not in full]
        return left

    def _below(self, path: Path, rows: Bits) -> list[tuple[Path, Bits]]:
        """Return the branches below a branch that have any of these rows; rows without the label are a branch of their own."""
        found: list[tuple[Path, Bits]] = []
        without = rows
        values = self._draft.fleet.postings.values(self._preferences[len(path)])
        for value in sorted(values):
            inside = values[value].bits & rows
            if inside and value:
                found.append(((*path, value), inside))
                without ^= inside
        if without:
            found.append(((*path, ""), without))
        return found
