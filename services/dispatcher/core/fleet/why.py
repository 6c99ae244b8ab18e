"""Why no node may have a task of a group: how many nodes each filter refused, and that in SwarmKit's words.

Looked at only when something stays pending; the scheduler asks once a pass for all groups of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.dispatcher.core.fleet import match
from services.dispatcher.core.fleet.bits import ALL, Bits
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group

NO_SUITABLE_NODE = "no suitable node"


@dataclass(frozen=True, slots=True)
class Reason:
    """One filter, and how its refusals are told."""

    passes: Callable[[Fleet, Group], Bits]
    one: str
    many: str
    """``{}`` stands for the number of nodes."""

    def tell(self, nodes: int) -> str:
        """Say how many nodes were refused."""
        return self.one if nodes == 1 else self.many.format(nodes)


REASONS = (
    Reason(match.is_ready, "1 node not available for new tasks", "{} nodes not available for new tasks"),
    Reason(match.has_room, "insufficient resources on 1 node", "insufficient resources on {} nodes"),
    Reason(match.can_run, "missing plugin on 1 node", "missing plugin on {} nodes"),
    Reason(
        match.meets_constraints,
        "scheduling constraints not satisfied on 1 node",
        "scheduling constraints not satisfied on {} nodes",
    ),
    Reason(match.has_platform, "unsupported platform on 1 node", "unsupported platform on {} nodes"),
    Reason(
        match.has_ports_free, "host-mode port already in use on 1 node", "host-mode port already in use on {} nodes"
    ),
    Reason(match.is_below_max, "max replicas per node limit exceed", "max replicas per node limit exceed"),
    Reason(match.is_good_company, "affinity not satisfied on 1 node", "affinity not satisfied on {} nodes"),
)
"""All filters, in the order in which a node's first refusal counts."""


def refusals(fleet: Fleet, group: Group, within: Bits = ALL) -> Mapping[Reason, int]:
    """Return how many of the known rows each filter is the first to refuse."""
    rows = fleet.known & within
    counts: dict[Reason, int] = {}
    for reason in REASONS:
        passing = rows & reason.passes(fleet, group)
        if passing != rows:
            counts[reason] = rows.bit_count() - passing.bit_count()
            rows = passing
    return counts


def tell(counts: Mapping[Reason, int]) -> str:
    """Say it in one line."""
    ranked = sorted(counts, key=lambda reason: (-counts[reason], REASONS.index(reason)))
    reasons = "; ".join(reason.tell(counts[reason]) for reason in ranked)
    return f"{NO_SUITABLE_NODE} ({reasons})" if reasons else NO_SUITABLE_NODE
