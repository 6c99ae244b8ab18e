"""Rebalancing: which running tasks to move so that a service is as even again as it would be if it were placed anew.

A move is made only when it is an improvement in the planner's own order: branch by branch of the preferences, then by tasks of the
service, then by tasks in all. The new place is the one the planner chooses, with the old one still occupied: moves start the new task
before the old one stops. Equal numbers never move, so rebalancing a balanced fleet is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.dispatcher.core.fleet.planner import Plan, plan, undo
from services.dispatcher.core.fleet.tree import branches_of


@dataclass(frozen=True, slots=True)
class Move:
    """One task of a group that is better off elsewhere."""

    group: Group
    source: int
    target: int


def moves(fleet: Fleet, groups: Sequence[Group], budget: int, now: float) -> list[Move]:
    """Return up to ``budget`` moves of tasks of these services. The fleet counts them as made until ``take_back``."""
    found: list[Move] = []
    improving = True
    while improving:
        improving = False
        for group in groups:
            if len(found) == budget:
                return found
            move = _move(fleet, group, now)
            if move is not None:
                found.append(move)
                improving = True
    return found


def take_back(fleet: Fleet, made: Sequence[Move]) -> None:
    """Undo moves: the fleet counts what it counted before."""
    for move in reversed(made):
        undo(fleet, Plan(move.group, {move.target: 1}, 0))
        fleet.count(move.group, move.source)


def _move(fleet: Fleet, group: Group, now: float) -> Move | None:
    """Return the best move of one task of a service, None when none is an improvement."""
    account = fleet.accounts.get(group.service)
    if account is None:
        return None
    source = max(account.tasks, key=lambda row: (_weights(fleet, group, row), row))
    before = _weights(fleet, group, source)
    fleet.count(group, source, -1)
    planned = plan(fleet, group, 1, now, within=~(1 << source))
    for target in planned.rows:
        if _is_better(_weights(fleet, group, target), before, _paths(fleet, group, source, target)):
            return Move(group, source, target)
    undo(fleet, planned)
    fleet.count(group, source)
    return None


def _weights(fleet: Fleet, group: Group, row: int) -> tuple[int, ...]:
    """Return what a row weighs: tasks of the service in each branch above it, on it, and all tasks on it."""
    account = fleet.account_of(group)
    own = (account.tasks.get(row, 0), fleet.totals.at[row])
    if not group.preferences:
        return own
    branches = branches_of(fleet, group)
    path = fleet.labels(row, group.preferences)
    return (*(branches.tasks.get(path[:depth], 0) for depth in range(1, len(path) + 1)), *own)


def _paths(fleet: Fleet, group: Group, source: int, target: int) -> int:
    """Return how many branches two rows have in common, from the root down."""
    pairs = zip(fleet.labels(source, group.preferences), fleet.labels(target, group.preferences), strict=True)
    common = 0
    for mine, other in pairs:
        if mine != other:
            break
        common += 1
    return common


def _is_better(after: tuple[int, ...], before: tuple[int, ...], common: int) -> bool:
    """Tell whether the target, with the task, weighs less than the source did, at the first level where they differ."""
    return after[common:] < before[common:]
