"""Reservations never exceed what a node has."""

from __future__ import annotations

from services.kit.model.ids import NodeId
from services.kit.model.objects import Task
from services.kit.model.states import TaskState
from services.kit.state.state import State
from tests.sim.promise import Checker
from tests.sim.reference import Commit


class Reservations(Checker):
    """Adds up the reservations of each node that a transaction touches."""

    promise = "reservations never exceed what a node has"

    def committed(self, commit: Commit) -> None:
        """Add up anew where a task was placed."""
        placed = {
            event.new.node_id
            for event in commit.events
            if isinstance(event.new, Task) and event.new.node_id is not None and holds(event.new)
        }
        for node_id in sorted(placed):
            self._add_up(commit.state, node_id)

    def _add_up(self, state: State, node_id: NodeId) -> None:
        node = state.nodes.get(node_id)
        if node is None:
            return
        cpus, memory = reserved(state, node_id)
        has = node.description.resources
        if cpus > has.nano_cpus or memory > has.memory_bytes:
            raise self.broken(
                f"node {node_id} has {has.nano_cpus} and {has.memory_bytes}, reserved {cpus} and {memory}"
            )


def holds(task: Task) -> bool:
    """Tell whether a task holds its reservation: from its placement until it has ended."""
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def reserved(state: State, node_id: NodeId) -> tuple[int, int]:
    """Return the billionths of a core and the bytes that are reserved on a node."""
    cpus = memory = 0
    for task in state.tasks_of_node(node_id).values():
        spec = state.spec(task.service_id, task.spec_version)
        if holds(task) and spec is not None:
            cpus += spec.task.resources.reservations.nano_cpus
            memory += spec.task.resources.reservations.memory_bytes
    return cpus, memory
