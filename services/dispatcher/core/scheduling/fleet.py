"""The fleet: all nodes with their accounts, and the choice among them.

This class is the scheduler's only way to nodes; an indexed one can take its place behind the same methods. The choice is SwarmKit's
spread: by preference (even over the values of each label), then nodes on which the group did not just fail, then fewest tasks of
the service, then fewest tasks; equal nodes by id.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.dispatcher.core.scheduling.demand import Demand, Group
from services.dispatcher.core.scheduling.filters import NO_SUITABLE_NODE, explain, refusal, still_fits
from services.dispatcher.core.scheduling.rows import Row
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Node
from services.kit.model.specs import GenericResource


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task goes, and what generic resources it was dealt."""

    node: NodeId
    generic: tuple[GenericResource, ...] = ()


@dataclass(frozen=True, slots=True)
class _Holding:
    placement: Placement
    demand: Demand
    counted: bool


class Fleet:
    """Nodes and what is held on them."""

    def __init__(self) -> None:
        self._rows: dict[NodeId, Row] = {}
        self._holdings: dict[TaskId, _Holding] = {}
        self._homeless: dict[NodeId, dict[TaskId, None]] = {}

    def put_node(self, node: Node) -> None:
        """Take a node in, or its new description; what is held on it stays."""
        row = self._rows.get(node.id)
        if row is not None:
            row.node = node
            return
        row = self._rows[node.id] = Row(node)
        for task in self._homeless.pop(node.id, ()):
            holding = self._holdings[task]
            row.take(holding.demand, holding.placement.generic, counted=holding.counted)

    def drop_node(self, node: NodeId) -> None:
        """Forget a node; tasks that are still held on it count again if it returns."""
        self._rows.pop(node, None)
        held = {task: None for task, holding in self._holdings.items() if holding.placement.node == node}
        if held:
            self._homeless[node] = held

    def hold(self, task: TaskId, demand: Demand, placement: Placement, *, counted: bool = True) -> None:
        """Keep room for a task on a node; again for the same place changes nothing.

        A task that is being stopped keeps its room until it has ended, but is not ``counted`` as one of the node's tasks any more.
        """
        held = self._holdings.get(task)
        if held is not None:
            if held.placement == placement and held.counted == counted:
                return
            self.release(task)
        self._holdings[task] = _Holding(placement, demand, counted)
        row = self._rows.get(placement.node)
        if row is None:
            self._homeless.setdefault(placement.node, {})[task] = None
        else:
            row.take(demand, placement.generic, counted=counted)

    def release(self, task: TaskId) -> bool:
        """Count a task out; False when it was not held."""
        held = self._holdings.pop(task, None)
        if held is None:
            return False
        row = self._rows.get(held.placement.node)
        if row is None:
            self._homeless.get(held.placement.node, {}).pop(task, None)
        else:
            row.give_back(held.demand, held.placement.generic, counted=held.counted)
        return True

    def failed(self, node: NodeId, group: Group, now: float) -> None:
        """Remember that a task of a group failed on a node."""
        row = self._rows.get(node)
        if row is not None:
            row.failed(group, now)

    def place(self, demand: Demand, tasks: Sequence[TaskId], now: float) -> list[Placement]:
        """Choose a node for each task, as far as there are any, and hold them there."""
        candidates = [row for row in self._rows.values() if refusal(row, demand) is None]
        branch = _branch(candidates, demand, demand.preferences, now)
        placements: list[Placement] = []
        for task in tasks:
            row = branch.pick()
            if row is None:
                break
            placement = Placement(row.node.id, row.deal(demand) or () if demand.generic else ())
            self.hold(task, demand, placement)
            branch.picked(row)
            placements.append(placement)
        return placements

    def try_node(self, demand: Demand, task: TaskId, node: NodeId) -> Placement | str:
        """Hold a task on the node that it was made for, or say why that cannot be."""
        row = self._rows.get(node)
        if row is None:
            return NO_SUITABLE_NODE
        if refusal(row, demand) is not None:
            return explain((row,), demand)
        placement = Placement(node, row.deal(demand) or ())
        self.hold(task, demand, placement)
        return placement

    def explain(self, demand: Demand) -> str:
        """Say why no node may have another task of this demand."""
        return explain(self._rows.values(), demand)

    def counts(self) -> dict[NodeId, tuple[int, int, int]]:
        """Return tasks, reserved processors and memory of each node, for tests and inspection."""
        return {node: (row.total, row.nano_cpus, row.memory_bytes) for node, row in self._rows.items()}


class _Leaf:
    """Candidates in the order in which they are chosen."""

    def __init__(self, rows: Iterable[Row], demand: Demand, now: float) -> None:
        self._demand = demand
        self._now = now
        self._heap = [self._entry(row) for row in rows]
        heapq.heapify(self._heap)
        self.count: int = sum(row.by_service[demand.service] for *_, row in self._heap)

    def _entry(self, row: Row) -> tuple[int, int, int, NodeId, Row]:
        penalty = row.penalty(self._demand.group, self._now) if row.failures else 0
        return penalty, row.by_service[self._demand.service], row.total, row.node.id, row

    def pick(self) -> Row | None:
        while self._heap:
            row = self._heap[0][4]
            if still_fits(row, self._demand):
                return row
            heapq.heappop(self._heap)
        return None

    def picked(self, row: Row) -> None:
        self.count += 1
        heapq.heapreplace(self._heap, self._entry(row))


class _Tree:
    """One level of preferences: branches by the value of a label, the one with fewest tasks of the service first."""

    def __init__(self, branches: Sequence[_Leaf | _Tree]) -> None:
        self._branches = list(branches)
        self._current: _Leaf | _Tree | None = None
        self.count: int = sum(branch.count for branch in branches)

    def pick(self) -> Row | None:
        while self._branches:
            self._current = min(self._branches, key=lambda branch: branch.count)
            row = self._current.pick()
            if row is not None:
                return row
            self._branches.remove(self._current)
        return None

    def picked(self, row: Row) -> None:
        assert self._current is not None
        self.count += 1
        self._current.picked(row)


def _branch(rows: Sequence[Row], demand: Demand, preferences: Sequence[str], now: float) -> _Leaf | _Tree:
    if not preferences:
        return _Leaf(rows, demand, now)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_label(row.node, preferences[0]), []).append(row)
    return _Tree([_branch(groups[value], demand, preferences[1:], now) for value in sorted(groups)])


def _label(node: Node, descriptor: str) -> str:
    family, _, name = descriptor.partition(".labels.")
    labels = node.spec.annotations.labels if family == "node" else node.description.engine.labels
    return labels.get(name, "")
