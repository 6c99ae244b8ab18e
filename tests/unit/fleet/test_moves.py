"""Rebalancing: only moves that make the fleet more even, as many as that takes, and none after."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import CPU, Group, needs_of
from services.dispatcher.core.fleet.moves import moves, take_back
from services.dispatcher.core.fleet.planner import plan
from services.kit.model.constraints import parse_constraints
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.specs import Annotations, NodeSpec
from tests.support import fleets
from tests.support.convergence import a_node


def counts(fleet: Fleet, service: str) -> dict[str, int]:
    tasks = fleet.accounts[ServiceId(service)].tasks
    return {fleet.node_ids[row]: count for row, count in sorted(tasks.items())}


def grown(before: int, after: int, groups: Sequence[Group], tasks: int) -> Fleet:
    """Return a fleet that was filled while it was small."""
    fleet = Fleet(5)
    for number in range(after):
        if number == before:
            for group in groups:
                assert plan(fleet, group, tasks, 0.0).short == 0
        spec = NodeSpec(annotations=Annotations(labels={"dc": f"dc{number % 3}"}))
        fleet.put(a_node(f"n{number}", cpus=1000, spec=spec))
    return fleet


def test_a_node_that_joins_gets_its_share_and_then_all_is_quiet() -> None:
    group = Group(service=ServiceId("web"), name="web")
    fleet = grown(4, 5, [group], 20)
    found = moves(fleet, [group], 100, 0.0)
    assert len(found) == 4
    assert set(counts(fleet, "web").values()) == {4}
    assert moves(fleet, [group], 100, 0.0) == []


def test_the_budget_bounds_the_moves_and_they_can_be_taken_back() -> None:
    group = Group(service=ServiceId("web"), name="web", needs=needs_of({CPU: 10**9}))
    fleet = grown(2, 4, [group], 20)
    before = fleets.picture_of(fleet)
    found = moves(fleet, [group], 3, 0.0)
    assert len(found) == 3
    take_back(fleet, found)
    assert fleets.picture_of(fleet) == before
    fleets.check(fleet)


def test_branches_are_evened_out_before_nodes() -> None:
    group = Group(service=ServiceId("web"), name="web", preferences=("node.labels.dc",))
    fleet = grown(2, 3, [group], 12)
    moves(fleet, [group], 100, 0.0)
    assert sorted(counts(fleet, "web").values()) == [4, 4, 4]


def test_equal_services_are_moved_for_the_sake_of_the_total() -> None:
    groups = [Group(service=ServiceId(f"s{number}"), name=f"s{number}") for number in range(12)]
    fleet = grown(3, 4, groups, 1)
    assert len(moves(fleet, groups, 100, 0.0)) == 3
    assert {fleet.totals.at[row] for row in fleet.row_of.values()} == {3}


@pytest.mark.parametrize("seed", range(40))
def test_after_all_moves_no_single_move_would_help(seed: int) -> None:
    rng = random.Random(seed)
    groups = [
        Group(
            service=ServiceId(f"s{number}"),
            name=f"s{number}",
            needs=needs_of({CPU: rng.choice((0, 1, 50)) * 10**9}),
            constraints=parse_constraints(rng.choice(((), ("node.labels.dc==dc1",), ("node.labels.dc!=dc2",)))),
            max_replicas=rng.choice((0, 0, 6)),
        )
        for number in range(rng.randrange(1, 8))
    ]
    fleet = grown(6, 6 + rng.randrange(1, 6), groups, 8)
    placed = {group.key: sum(fleet.accounts[group.service].tasks.values()) for group in groups}
    squares = _squares(fleet)
    found = moves(fleet, groups, 10_000, 0.0)
    assert {group.key: sum(fleet.accounts[group.service].tasks.values()) for group in groups} == placed
    assert (_squares(fleet) < squares) if found else (_squares(fleet) == squares)
    fits = {group.key: {fleet.row_of[node] for node in _fitting(fleet, group)} for group in groups}
    for group in groups:
        tasks, totals = fleet.accounts[group.service].tasks, fleet.totals.at
        for source in tasks:
            for target in fits[group.key] - {source}:
                own, other = (tasks[source], totals[source]), (tasks.get(target, 0) + 1, totals[target] + 1)
                assert not other < own, f"a task of {group.name} should have moved"


def _squares(fleet: Fleet) -> tuple[int, int]:
    own = sum(count**2 for account in fleet.accounts.values() for count in account.tasks.values())
    return own, sum(fleet.totals.at[row] ** 2 for row in fleet.row_of.values())


def _fitting(fleet: Fleet, group: Group) -> list[NodeId]:
    """Return the nodes on which one more task fits, found by trying."""
    found = []
    for node, row in fleet.row_of.items():
        planned = plan(fleet, group, 1, 0.0, within=1 << row)
        if not planned.short:
            found.append(node)
            fleet.discount(group, row)
            fleet.vacate(group, row)
    return found
