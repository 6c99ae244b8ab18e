"""Preemption: which less important tasks to end so that a more important one fits.

Looked at only for groups that stay short, within a budget of the caller's. Rows are ranked by the highest priority that would have to be
touched, then by how much is missing; on the best of them victims are chosen one by one, lowest priority first, and those that turn out
superfluous are spared. Only resources are won this way; ports, constraints and limits are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from services.dispatcher.core.fleet.bands import Bands
from services.dispatcher.core.fleet.bits import ALL, Bits, rows_of
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.dispatcher.core.fleet.match import standing
from services.kit.model.ids import TaskId

_LOOKED_AT_MIN = 32
_LOOKED_AT_PER_TASK = 4


@dataclass(frozen=True, slots=True)
class Tenant:
    """A task that is on a row."""

    task: TaskId
    group: Group


@dataclass(frozen=True, slots=True)
class Eviction:
    """Tasks that have to end so that one more important task fits on a row."""

    row: int
    victims: tuple[Tenant, ...]

    @property
    def cost(self) -> tuple[int, int, int]:
        """What evictions are chosen by: the highest priority among the victims, their number, the row."""
        return max((each.group.priority for each in self.victims), default=0), len(self.victims), self.row


Tenants = Callable[[int], Iterable[Tenant]]
"""Returns the tasks of a row that may be ended."""


def evictions(
    fleet: Fleet, bands: Bands, group: Group, wanted: int, tenants: Tenants, budget: int, within: Bits = ALL
) -> list[Eviction]:
    """Return up to ``wanted`` evictions on different rows of ``within``, with at most ``budget`` victims in all."""
    lower = bands.below(group.priority)
    if not lower or not group.needs or wanted <= 0:
        return []
    ranked = (
        (rank, row)
        for row in rows_of(standing(fleet, group) & within)
        if (rank := _rank(fleet, bands, group, row, lower))
    )
    best = nsmallest(max(_LOOKED_AT_MIN, _LOOKED_AT_PER_TASK * wanted), ranked)
    found = [eviction for _, row in best if (eviction := eviction_on(fleet, group, row, tenants(row)))]
    chosen: list[Eviction] = []
    for eviction in sorted(found, key=lambda eviction: eviction.cost):
        if len(chosen) < wanted and len(eviction.victims) <= budget:
            budget -= len(eviction.victims)
            chosen.append(eviction)
    return chosen


def _rank(fleet: Fleet, bands: Bands, group: Group, row: int, lower: Sequence[int]) -> tuple[int, float] | None:
    """Return how dear a row is at least, None when even without all lower tasks there would not be enough."""
    missing = _missing(fleet, group, row)
    share = sum(amount / (fleet.dimension(resource).capacity[row] or 1) for resource, amount in missing.items())
    for priority in lower:
        for resource in list(missing):
            missing[resource] -= bands.used(priority, resource, row)
            if missing[resource] <= 0:
                del missing[resource]
        if not missing:
            return priority, share
    return None


def eviction_on(fleet: Fleet, group: Group, row: int, tenants: Iterable[Tenant]) -> Eviction | None:
    """Return the tasks to end on one row, None when that cannot be enough."""
    missing = _missing(fleet, group, row)
    wanted = dict(missing)
    victims: list[Tenant] = []
    lower = [tenant for tenant in tenants if tenant.group.priority < group.priority]
    lower.sort(key=lambda tenant: (tenant.group.priority, -_share(tenant.group, wanted), tenant.task))
    for tenant in lower:
        if all(amount <= 0 for amount in missing.values()):
            break
        if any(amount > 0 and tenant.group.amount(resource) for resource, amount in missing.items()):
            victims.append(tenant)
            _add(missing, tenant.group, -1)
    if any(amount > 0 for amount in missing.values()):
        return None
    return Eviction(row, tuple(_without_superfluous(victims, missing)))


def _without_superfluous(victims: list[Tenant], missing: dict[str, int]) -> list[Tenant]:
    """Spare victims that are not needed in the end, the most important first."""
    for tenant in sorted(victims, key=lambda tenant: (-tenant.group.priority, tenant.task)):
        if all(amount + tenant.group.amount(resource) <= 0 for resource, amount in missing.items()):
            victims.remove(tenant)
            _add(missing, tenant.group, 1)
    return victims


def _missing(fleet: Fleet, group: Group, row: int) -> dict[str, int]:
    """Return how much of which resources a row lacks for a task."""
    lacking = {need.resource: need.amount - fleet.dimension(need.resource).free[row] for need in group.needs}
    return {resource: amount for resource, amount in lacking.items() if amount > 0}


def _add(missing: dict[str, int], group: Group, sign: int) -> None:
    for resource in missing:
        missing[resource] += sign * group.amount(resource)


def _share(group: Group, wanted: dict[str, int]) -> float:
    """Return how much of what is wanted the end of a task would give."""
    return sum(min(group.amount(resource) / amount, 1.0) for resource, amount in wanted.items())
