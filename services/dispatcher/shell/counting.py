"""Counts what the store holds, change by change, for those who read metrics; SwarmKit's collector, without its recounting.

Fed with every batch of the replica. A re-sync comes as the difference, so the counts stay those of the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from services.kit.model.objects import Node, Object, Task
from services.kit.model.states import NodeState, TaskState
from services.kit.runtime import metrics
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.store.replica import Batch

_PLAIN = {
    Table.SERVICE: metrics.MANAGER_SERVICES,
    Table.NETWORK: metrics.MANAGER_NETWORKS,
    Table.SECRET: metrics.MANAGER_SECRETS,
    Table.CONFIG: metrics.MANAGER_CONFIGS,
}


class Counting:
    """The counts of one manager."""

    def __init__(self) -> None:
        self._tasks: Counter[TaskState] = Counter()
        self._nodes: Counter[NodeState] = Counter()
        self._others: Counter[Table] = Counter()
        for state in TaskState:
            metrics.MANAGER_TASKS.set(0, state.name.lower())
        for node_state in NodeState:
            metrics.MANAGER_NODES.set(0, node_state.name.lower())
        for gauge in (*_PLAIN.values(), metrics.MANAGER_LEADER):
            gauge.set(0)

    def absorb(self, batch: Batch, *, leads: bool) -> None:
        """Take what the store applied; who leads also measures how long tasks take until they run."""
        tables = set()
        for event in batch.events:
            tables.add(event.table)
            if event.table is Table.TASK:
                _move(self._tasks, event, _task_state)
                if leads and not batch.reset:
                    _measure(event)
            elif event.table is Table.NODE:
                _move(self._nodes, event, _node_state)
            elif event.table in _PLAIN:
                self._others[event.table] += (event.new is not None) - (event.old is not None)
        self._show(tables)

    def _show(self, tables: set[Table]) -> None:
        if Table.TASK in tables:
            for state in TaskState:
                metrics.MANAGER_TASKS.set(self._tasks[state], state.name.lower())
        if Table.NODE in tables:
            for node_state in NodeState:
                metrics.MANAGER_NODES.set(self._nodes[node_state], node_state.name.lower())
        for table in tables & set(_PLAIN):
            _PLAIN[table].set(self._others[table])


def _move(counts: Counter, event: Event, state_of: Callable[[Object], object]) -> None:  # type: ignore[type-arg]
    if event.old is not None:
        counts[state_of(event.old)] -= 1
    if event.new is not None:
        counts[state_of(event.new)] += 1


def _task_state(thing: Object) -> TaskState:
    assert isinstance(thing, Task)
    return thing.status.state


def _node_state(thing: Object) -> NodeState:
    assert isinstance(thing, Node)
    return thing.status.state


def _measure(event: Event) -> None:
    """Take the time from a task's creation to the moment at which it was first seen running."""
    old, new = event.old, event.new
    if not isinstance(old, Task) or not isinstance(new, Task):
        return
    if old.status.state < TaskState.RUNNING and new.status.state is TaskState.RUNNING:
        metrics.SCHEDULING_DELAY.observe(max(0.0, new.meta.updated_at - new.meta.created_at))
