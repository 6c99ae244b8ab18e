"""Packing: fills the node on which the least would be left, so that whole nodes stay free for large tasks.

Judged by the resource of which a task takes the largest share of the fleet. A group that reserves nothing cannot fill a node; the
planner spreads it instead. Preferences and the service's own evenness do not count here.
"""

from __future__ import annotations

from services.dispatcher.core.fleet.bits import Bits, bits_of, rows_of
from services.dispatcher.core.fleet.dimension import Dimension
from services.dispatcher.core.fleet.draft import Draft
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group, Need


def pack(draft: Draft, wanted: int, rows: Bits) -> int:
    """Place up to ``wanted`` tasks on these rows, the fullest first, and return how many are left over."""
    need = dominant(draft.fleet, draft.group, rows)
    failing = bits_of(draft.penalties) & rows
    left = _fullest_first(draft, wanted, rows ^ failing, need)
    for failures in sorted(set(draft.penalties.values())):
        alike = bits_of(row for row, count in draft.penalties.items() if count == failures) & failing
        left = _fullest_first(draft, left, alike, need)
    return left


def dominant(fleet: Fleet, group: Group, rows: Bits) -> Need:
    """Return the need that is largest beside what the highest of these rows has in all."""
    row = rows.bit_length() - 1
    return max(group.needs, key=lambda need: need.amount / (fleet.dimension(need.resource).capacity[row] or 1))


def _fullest_first(draft: Draft, left: int, rows: Bits, need: Need) -> int:
    dimension = draft.fleet.dimension(need.resource)
    free = dimension.free
    size = need.size
    while left and rows:
        size = _next_size(dimension, rows, size)
        band = rows & ~dimension.from_class(size + 1)
        rows ^= band
        for row in sorted(rows_of(band), key=lambda row: (free[row], -row)):
            count = draft.room(row, left)
            if count:
                draft.take(row, count)
                left -= count
                if not left:
                    break
    return left


def _next_size(dimension: Dimension, rows: Bits, size: int) -> int:
    """Return the smallest size class, from this one up, of any of these rows; all of them are of this class or larger."""
    low, high = size, len(dimension.at_least) - 1
    while low < high:
        middle = (low + high) >> 1
        if rows & ~dimension.from_class(middle + 1):
            high = middle
        else:
            low = middle + 1
    return low
