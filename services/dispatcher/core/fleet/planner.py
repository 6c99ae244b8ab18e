"""The engine's front door: place so many tasks of a group, see whether they all fit, and take it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.dispatcher.core.fleet.bits import ALL, Bits
from services.dispatcher.core.fleet.draft import Draft
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.dispatcher.core.fleet.match import possible
from services.dispatcher.core.fleet.pack import pack
from services.dispatcher.core.fleet.spread import spread
from services.dispatcher.core.fleet.tree import spread_over_tree
from services.kit.model.states import PlacementStrategy


@dataclass(frozen=True, slots=True)
class Plan:
    """Where tasks of a group go; the fleet counts them as placed."""

    group: Group
    rows: Mapping[int, int]
    """Tasks by row, in the order in which the rows were first chosen."""
    short: int
    """Tasks for which there is no row."""


def plan(fleet: Fleet, group: Group, wanted: int, now: float, within: Bits = ALL) -> Plan:
    """Place up to ``wanted`` tasks on rows of ``within``, and leave one out only when no row is left that fits."""
    rows = possible(fleet, group) & within
    if not rows or wanted <= 0:
        return Plan(group, {}, max(wanted, 0))
    draft = Draft(fleet, group, fleet.failures.penalties(group.key, now))
    if group.strategy is PlacementStrategy.PACK and group.needs:
        short = pack(draft, wanted, rows)
    elif group.preferences:
        short = spread_over_tree(draft, wanted, rows)
    else:
        short = spread(draft, wanted, rows)
    fleet.close_if_empty(group)
    return Plan(group, draft.taken, short)


def undo(fleet: Fleet, planned: Plan) -> None:
    """Take back what was planned."""
    for row, tasks in planned.rows.items():
        fleet.count(planned.group, row, -tasks)
        fleet.occupy(planned.group, row, -tasks)
