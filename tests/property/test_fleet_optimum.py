"""Spreading against solvers that know no greed: every distribution tried out on tiny fleets, minimum-cost flow on larger ones."""

from __future__ import annotations

import random
from itertools import product

import pytest

from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import CPU, Group, needs_of
from services.dispatcher.core.fleet.planner import plan
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.specs import Annotations, NodeSpec
from tests.support.convergence import a_node


class Case:
    """Rows with tasks already on them, and how many more each can take."""

    def __init__(self, rng: random.Random, rows: int, most: int) -> None:
        self.have = [rng.randrange(most) for _ in range(rows)]
        self.room = [rng.randrange(most) for _ in range(rows)]
        self.labels = [(rng.choice("ab"), rng.choice("xy")) for _ in range(rows)]
        self.wanted = min(rng.randrange(1, rows * most), sum(self.room))

    def planned(self, *preferences: str) -> list[int]:
        """Return what the engine adds to each row."""
        fleet = Fleet(len(self.have))
        old = Group(service=ServiceId("s"), name="s", version=1)
        new = Group(service=ServiceId("s"), name="s", version=2, needs=needs_of({CPU: 10**9}), preferences=preferences)
        for row, (dc, rack) in enumerate(self.labels):
            spec = NodeSpec(annotations=Annotations(labels={"dc": dc, "rack": rack}))
            fleet.put(a_node(f"n{row}", cpus=self.room[row], spec=spec))
            index = fleet.row_of[NodeId(f"n{row}")]
            fleet.occupy(old, index, self.have[row])
            fleet.count(old, index, self.have[row])
        rows = plan(fleet, new, self.wanted, 0.0).rows
        return [rows.get(fleet.row_of[NodeId(f"n{row}")], 0) for row in range(len(self.have))]

    def cost(self, added: tuple[int, ...] | list[int], depth: int) -> int:
        """Return the sum of squares over rows, or over the branches at a depth."""
        sums: dict[object, int] = {}
        for row, more in enumerate(added):
            key = row if depth == 0 else self.labels[row][:depth]
            sums[key] = sums.get(key, 0) + self.have[row] + more
        return sum(count**2 for count in sums.values())

    def ways(self) -> list[tuple[int, ...]]:
        """Return all distributions."""
        ways = product(*(range(room + 1) for room in self.room))
        return [way for way in ways if sum(way) == self.wanted]


@pytest.mark.parametrize("seed", range(300))
def test_no_distribution_of_a_tiny_fleet_is_more_even(seed: int) -> None:
    rng = random.Random(seed)
    case = Case(rng, rng.randrange(1, 6), 4)
    ways = case.ways()
    flat, tree = case.planned(), case.planned("node.labels.dc", "node.labels.rack")
    assert sum(flat) == sum(tree) == case.wanted
    assert case.cost(flat, 0) == min(case.cost(way, 0) for way in ways)
    assert case.cost(tree, 1) == min(case.cost(way, 1) for way in ways)


@pytest.mark.parametrize("seed", range(60))
def test_minimum_cost_flow_finds_nothing_more_even(seed: int) -> None:
    flows = pytest.importorskip("ortools.graph.python.min_cost_flow")
    rng = random.Random(seed)
    case = Case(rng, rng.randrange(2, 40), 9)
    solver = flows.SimpleMinCostFlow()
    sink = len(case.have) + 1
    for row, (have, room) in enumerate(zip(case.have, case.room, strict=True), start=1):
        solver.add_arc_with_capacity_and_unit_cost(0, row, room, 0)
        for step in range(room):
            solver.add_arc_with_capacity_and_unit_cost(row, sink, 1, 2 * (have + step) + 1)
    solver.set_node_supply(0, case.wanted)
    solver.set_node_supply(sink, -case.wanted)
    assert solver.solve() == solver.OPTIMAL
    nothing = case.cost([0] * len(case.have), 0)
    assert case.cost(case.planned(), 0) == nothing + solver.optimal_cost()
