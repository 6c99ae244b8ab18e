"""Spreading: the row with the fewest tasks of the service, and among those the one on the lowest level; exact for any number of tasks.

The rows are walked by their number of tasks of the service, and each such set is drained by rising level: whole levels at a time where
rows surely have room, row by row where that has to be looked at. Rows on which the group keeps failing come last.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace

from services.dispatcher.core.fleet.bits import Bits, bits_of, highest, rows_of
from services.dispatcher.core.fleet.draft import Draft
from services.dispatcher.core.fleet.fill import even_level

_SWEEP_FROM = 8
"""Tasks from which on a level is taken as a whole."""
_LIFT_FROM = 2
"""Tasks a row from which on many levels are taken as a whole."""


def spread(draft: Draft, wanted: int, rows: Bits) -> int:
    """Place up to ``wanted`` tasks on these rows and return how many are left over.

    The rows have passed all other filters before the draft began; what the draft itself took is looked at here.
    """
    failing = bits_of(draft.penalties) & rows
    left = _evenly(draft, wanted, rows ^ failing)
    return _by_failures(draft, left, failing) if left and failing else left


def _evenly(draft: Draft, left: int, rows: Bits) -> int:
    if not draft.at_most_once and left > _LIFT_FROM * rows.bit_count() > 0:
        left = _lift(draft, left, rows)
        rows = draft.maybe(rows)
    account = draft.fleet.accounts.get(draft.group.service)
    occupied = 0 if account is None else account.occupied & rows
    left, taken = _drain(draft, left, rows ^ occupied, 0)
    if not left or (account is None and not taken):
        return left
    levels: dict[int, Bits] = {1: taken} if taken else {}
    if account is not None and occupied:
        for tasks, held in account.levels().items():
            found = held & occupied
            if found:
                levels[tasks] = levels.get(tasks, 0) | found
    return _by_service_tasks(draft, left, levels)


def _lift(draft: Draft, left: int, rows: Bits) -> int:
    """Lift all rows at once to a level that the tasks surely reach, as far as each has room; return how many tasks are left.

    Placing one by one comes by this very state, since it never raises a row above another that has room; it goes on from here.
    """
    numbers = rows_of(rows)
    have = [draft.tasks_on(row) for row in numbers]
    level, _ = even_level(have, left)
    shares = [draft.room(row, level - tasks) for row, tasks in zip(numbers, have, strict=True)]
    draft.take_many(
        [row for row, share in zip(numbers, shares, strict=True) if share], [share for share in shares if share]
    )
    return left - sum(shares)


def _by_service_tasks(draft: Draft, left: int, levels: dict[int, Bits]) -> int:
    """Walk rows by their number of tasks of the service, putting those that got one on the next step."""
    limit = draft.group.max_replicas
    while left and levels:
        tasks = min(levels)
        rows = levels.pop(tasks)
        if limit and tasks >= limit:
            break
        if draft.at_most_once:
            rows &= ~bits_of(draft.taken)
        left, taken = _drain(draft, left, draft.maybe(rows), tasks)
        if taken:
            levels[tasks + 1] = levels.get(tasks + 1, 0) | taken
    return left


def _drain(draft: Draft, left: int, rows: Bits, tasks: int) -> tuple[int, Bits]:
    """Place a task on each row, by rising level, while tasks are left; return how many are, and the rows taken."""
    if not rows:
        return left, 0
    sure = draft.surely(rows)
    taken: Bits = 0
    while left and rows:
        level, lowest = draft.levels.lowest(rows)
        surely = lowest & sure
        if surely and left >= _SWEEP_FROM:
            if surely.bit_count() > left:
                surely = highest(surely, left)
            swept = rows_of(surely)
            draft.take_one_each(swept, surely, level, tasks)
            left -= len(swept)
        elif surely:
            row = surely.bit_length() - 1
            surely = 1 << row
            draft.take(row)
            left -= 1
        else:
            surely, refused = _first_with_room(draft, lowest)
            rows ^= refused
            if not surely:
                continue
            draft.take(surely.bit_length() - 1)
            left -= 1
        rows ^= surely
        taken |= surely
    return left, taken


def _first_with_room(draft: Draft, rows: Bits) -> tuple[Bits, Bits]:
    """Return the first of these rows that has room, as a set, and the set of those that were looked at in vain."""
    refused: Bits = 0
    while rows:
        row = rows.bit_length() - 1
        bit = 1 << row
        if draft.has_room(row):
            return bit, refused
        refused |= bit
        rows ^= bit
    return 0, refused


def _by_failures(draft: Draft, left: int, rows: Bits) -> int:
    """Place on rows on which the group keeps failing: fewest failures first, then as everywhere."""
    penalties, levels = draft.penalties, draft.levels.at
    heap = [(penalties[row], draft.tasks_on(row), levels[row], row) for row in rows_of(rows) if draft.room(row, 1)]
    heapify(heap)
    while left and heap:
        failures, tasks, _, row = heap[0]
        draft.take(row)
        left -= 1
        if draft.room(row, 1):
            heapreplace(heap, (failures, tasks + 1, levels[row], row))
        else:
            heappop(heap)
    return left
