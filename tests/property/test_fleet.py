"""The scheduler's engine against an oracle that knows no index: ``tests/support/fleets.py``."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.dispatcher.core.fleet.ledger import Ledger, Placement
from services.dispatcher.core.fleet.why import REASONS, refusals
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.states import PlacementStrategy
from tests.support import fleets
from tests.support.fleets import Held, Truth

NOW = 1000.0
SIZES = (1, 2, 3, 5, 8, 13, 30)
WANTED = (1, 1, 2, 3, 7, 9, 15, 40, 80)


class Run:
    """One random life of a fleet; every group that is planned is compared with the oracle."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fleet = Fleet(seed)
        self.ledger = Ledger(self.fleet)
        self.truth = Truth()
        self.groups = 0
        self.tasks = 0
        for number in range(self.rng.choice(SIZES)):
            self.put(number)

    def put(self, number: int) -> None:
        node = fleets.random_node(self.rng, number)
        self.truth.nodes[node.id] = node
        self.fleet.put(node)

    def step(self) -> None:
        rng = self.rng
        match rng.random():
            case chance if chance < 0.15:
                self.change_nodes()
            case chance if chance < 0.35:
                self.end_tasks()
            case _:
                self.place(fleets.random_group(rng, rng.randrange(1, 4)), rng.choice(WANTED))

    def change_nodes(self) -> None:
        rng = self.rng
        number = rng.randrange(len(self.truth.nodes) + 2)
        name = NodeId(f"n{number}")
        if name in self.truth.nodes and rng.random() < 0.3:
            del self.truth.nodes[name]
            for failed in self.truth.failures.values():
                failed.pop(name, None)
            self.fleet.drop(name)
        else:
            self.put(number)

    def end_tasks(self) -> None:
        rng = self.rng
        for _ in range(rng.randrange(1, 12)):
            everything = self.truth.held
            if not everything:
                return
            held = rng.choice(everything)
            assert held.task is not None
            if held.counted:
                held.counted = False
                self.ledger.hold(held.task, held.group, Placement(held.node, held.dealt), counted=False)
            if rng.random() < 0.8:
                assert self.ledger.release(held.task)
                self.truth.remove(held)

    def place(self, group: Group, wanted: int) -> None:
        rng = self.rng
        if rng.random() < 0.1 and self.truth.nodes:
            self.fail_somewhere(group)
        before = self.truth.copy()
        tasks = [TaskId(f"t{self.tasks + number}") for number in range(wanted)]
        placements = self.ledger.place(group, tasks, NOW)
        self.groups += 1
        self.tasks += wanted
        self.replay(group, tasks, placements)
        self.compare(group, wanted, placements, before)
        if len(placements) < wanted:
            assert not self.truth.fitting(group), "a task is pending though a node fits"
        self.explain(group)
        if rng.random() < 0.1:
            assert all(self.ledger.release(task) for task in tasks[: len(placements)])
            self.truth.by_node = before.by_node

    def fail_somewhere(self, group: Group) -> None:
        for node in self.rng.sample(sorted(self.truth.nodes), self.rng.randrange(1, 3) % len(self.truth.nodes) or 1):
            times = self.rng.choice((4, 5, 6))
            for _ in range(times):
                self.fleet.failures.add(group.key, self.fleet.row_of[node], NOW)
            known = self.truth.failures.setdefault(group.key, {})
            known[node] = known.get(node, 0) + times

    def replay(self, group: Group, tasks: list[TaskId], placements: list[Placement]) -> None:
        """Enter the same tasks in the truth, checking each against the raw data."""
        for task, placement in zip(tasks, placements, strict=False):
            node = self.truth.nodes[placement.node]
            assert self.truth.refusal(node, group) is None, f"{node.id} was chosen though it does not fit"
            assert placement.generic == self.truth.deal(group, node.id), "the wrong devices were dealt"
            self.truth.add(Held(group, node.id, True, task, placement.generic))

    def compare(self, group: Group, wanted: int, placements: list[Placement], before: Truth) -> None:
        if group.strategy is PlacementStrategy.PACK and group.needs:
            if len(placements) == wanted == 1 and group.key not in self.truth.failures:
                compare_tightness(group, placements[0], before)
            return
        counts = Counter(placement.node for placement in placements)
        expected = Counter(fleets.greedy(before.copy(), group, wanted))
        assert expected.total() == counts.total()
        self.compare_evenness(group, before, counts, expected)

    def compare_evenness(self, group: Group, start: Truth, counts: Counter[NodeId], expected: Counter[NodeId]) -> None:
        if group.preferences:
            mine, theirs = (branch_counts(start, group, found) for found in (counts, expected))
            assert mine == theirs, "the branches of the first preference differ"
            return
        penalties = start.failures.get(group.key, {})

        def steps(found: Counter[NodeId]) -> list[tuple[int, int]]:
            return sorted(
                (penalties.get(node, 0), start.tasks(group.service, node) + step)
                for node, count in found.items()
                for step in range(count)
            )

        assert steps(counts) == steps(expected), "the tasks are not spread as evenly as they could be"

        if group.strategy is PlacementStrategy.LOAD:
            return

        def squares(found: Counter[NodeId]) -> int:
            return sum((start.total(node) + found[node]) ** 2 for node in self.truth.nodes)

        assert squares(counts) == squares(expected), "ties were not broken by the number of tasks"

    def explain(self, group: Group) -> None:
        found = refusals(self.fleet, group)
        expected: Counter[int] = Counter()
        for node in self.truth.nodes.values():
            refused = self.truth.refusal(node, group)
            if refused is not None:
                expected[refused] += 1
        assert {REASONS.index(reason): count for reason, count in found.items()} == dict(expected)

    def check(self) -> None:
        fleets.check(self.fleet)
        anew = fleets.rebuilt(self.truth)
        fleets.check(anew.fleet)
        assert fleets.picture_of(self.fleet) == fleets.picture_of(anew.fleet)


def compare_tightness(group: Group, placement: Placement, before: Truth) -> None:
    """One packed task goes to a node on which no other fitting one leaves less, by one of the resources."""
    fitting = [node.id for node in before.fitting(group)]
    assert any(
        before.free(placement.node, need.resource) == min(before.free(node, need.resource) for node in fitting)
        for need in group.needs
    ), "a task was not packed where the least is left"


def branch_counts(start: Truth, group: Group, found: Counter[NodeId]) -> list[int]:
    """Return the tasks below each branch of the first preference; which of equal branches got the last task may differ."""
    counts = Counter({path[0]: count for path, count in fleets.path_counts(start, group).items() if len(path) == 1})
    for node, count in found.items():
        counts[fleets.label(start.nodes[node], group.preferences[0])] += count
    return sorted(count for count in counts.values() if count)


def lives(first: int, groups: int) -> None:
    """Run lives until so many groups were planned."""
    planned, seed = 0, first
    while planned < groups:
        planned += live(seed).groups
        seed += 1


def live(seed: int) -> Run:
    """Run one life to its end."""
    try:
        run = Run(seed)
        for _ in range(run.rng.randrange(3, 30)):
            run.step()
        run.check()
    except AssertionError as error:
        error.add_note(f"this life's seed is {seed}")
        raise
    return run


def test_plans_equal_those_of_an_oracle_without_an_index() -> None:
    lives(random.SystemRandom().randrange(1 << 40), 3000)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, 60_000_000, 1_000_000))
def test_a_hundred_thousand_plans_equal_those_of_the_oracle(first: int) -> None:
    lives(first, 2_000)
