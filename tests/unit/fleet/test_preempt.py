"""Ending less important tasks for a more important one, against trying out every choice of victims."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

from services.dispatcher.core.fleet.bands import Bands
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import CPU, MEMORY, Group, needs_of
from services.dispatcher.core.fleet.preempt import Eviction, Tenant, eviction_on, evictions
from services.kit.model.ids import NodeId, ServiceId, TaskId
from tests.support.convergence import a_node

CORE = 10**9


def group(name: str, priority: int, cpus: int, memory_bytes: int = 0) -> Group:
    needs = needs_of({CPU: cpus * CORE, MEMORY: memory_bytes})
    return Group(service=ServiceId(name), name=name, needs=needs, priority=priority)


def fleet_of(*cpus: int, memory_bytes: int = 100) -> Fleet:
    fleet = Fleet()
    for number, count in enumerate(cpus):
        fleet.put(a_node(f"n{number}", cpus=count, memory_bytes=memory_bytes))
    return fleet


def put(fleet: Fleet, row: int, tenants: Sequence[Tenant]) -> None:
    for tenant in tenants:
        fleet.occupy(tenant.group, row)
        fleet.count(tenant.group, row)


def cheapest(fleet: Fleet, wanted: Group, row: int, tenants: Sequence[Tenant]) -> Eviction | None:
    """Return the best victims by trying all."""
    lower = [tenant for tenant in tenants if tenant.group.priority < wanted.priority]
    choices = (Eviction(row, chosen) for count in range(len(lower) + 1) for chosen in combinations(lower, count))
    enough = [
        choice
        for choice in choices
        if all(
            fleet.dimension(need.resource).free[row] + sum(each.group.amount(need.resource) for each in choice.victims)
            >= need.amount
            for need in wanted.needs
        )
    ]
    return min(enough, key=lambda choice: choice.cost) if enough else None


def test_victims_are_found_whenever_there_are_any_and_nobody_more_important_than_needed_is_ended() -> None:
    seed = random.SystemRandom().randrange(1 << 40)
    rng = random.Random(seed)
    surplus = found = 0
    for _ in range(600):
        fleet = fleet_of(rng.randrange(20, 60))
        row = fleet.row_of[NodeId("n0")]
        tenants = [
            Tenant(TaskId(f"t{n}"), group(f"s{n}", rng.randrange(4), rng.randrange(1, 20), rng.randrange(1, 30)))
            for n in range(rng.randrange(8))
        ]
        put(fleet, row, tenants)
        wanted = group("vip", rng.randrange(1, 5), rng.randrange(1, 60), rng.randrange(1, 100))
        mine, best = eviction_on(fleet, wanted, row, tenants), cheapest(fleet, wanted, row, tenants)
        assert (mine is None) == (best is None), f"seed {seed}"
        if mine is not None and best is not None:
            assert mine.cost[0] == best.cost[0], f"seed {seed}"
            found += 1
            surplus += len(mine.victims) - len(best.victims)
    assert surplus <= 0.4 * found, f"seed {seed}: too many victims"


def test_the_least_important_tasks_go_and_the_budget_holds() -> None:
    fleet = fleet_of(4, 4, 4)
    low, middle = group("low", 0, 2), group("middle", 1, 2)
    on: dict[int, list[Tenant]] = {}
    for name, members in (("n0", (low, low)), ("n1", (middle, low)), ("n2", (middle, middle))):
        row = fleet.row_of[NodeId(name)]
        on[row] = [Tenant(TaskId(f"{name}-{number}"), member) for number, member in enumerate(members)]
        put(fleet, row, on[row])
    bands = Bands((row, tenant.group) for row, tenants in on.items() for tenant in tenants)
    vip = group("vip", 9, 2)

    def ended(wanted: int, budget: int) -> list[str]:
        found = evictions(fleet, bands, vip, wanted, on.__getitem__, budget)
        return sorted(tenant.task for eviction in found for tenant in eviction.victims)

    assert ended(1, 9) in (["n0-0"], ["n1-1"])
    assert len(ended(3, 2)) == 2
    assert len(ended(3, 9)) == 3
    assert evictions(fleet, bands, group("equal", 0, 2), 1, on.__getitem__, 9) == []
    assert evictions(fleet, bands, group("huge", 9, 5), 1, on.__getitem__, 9) == []
