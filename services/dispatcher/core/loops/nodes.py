"""Lost nodes: tasks of a node that has been down for a day, or that is no longer in the swarm, are orphaned. Workers that have been down
for as long as the cluster's settings say are removed; they may join again.

Keys are node ids. Nobody will ever report on such tasks again; as long as they look alive they hold reservations and history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.tasks import with_state
from services.kit.model.ids import NodeId
from services.kit.model.objects import Cluster, Node, Task
from services.kit.model.states import NodeState, Role, TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

ORPHAN_AFTER_S = 24 * 3600.0
UNREACHABLE = frozenset({NodeState.DOWN, NodeState.DISCONNECTED})
GONE = "node is no longer in the swarm"
TOO_LONG = "node was unreachable for a day"


class LostNodes:
    """Orphans tasks of nodes that will not come back."""

    name = "nodes"
    tables = frozenset({Table.NODE, Table.CLUSTER})

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at unreachable nodes, and at nodes that only tasks remember."""
        unreachable = {node.id: None for node in view.nodes.values() if node.status.state in UNREACHABLE}
        missing = {
            task.node_id: None
            for task in view.tasks.values()
            if task.node_id is not None and task.node_id not in view.nodes
        }
        return [*unreachable, *missing]

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A node that is unreachable now, or gone."""
        thing = event.object
        if isinstance(thing, Cluster):
            return [node.id for node in view.nodes.values() if node.status.state in UNREACHABLE]
        lost = event.new is None or (isinstance(thing, Node) and thing.status.state in UNREACHABLE)
        return (thing.id,) if lost else ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Orphan what is overdue."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        for key in keys:
            node_id = NodeId(str(key))
            node = view.nodes.get(node_id)
            if node is not None:
                if node.status.state not in UNREACHABLE:
                    continue
                if self._is_ghost(view, node, now, wakes):
                    steps.append(Step(key=key, removes=(node,)))
                    continue
                due = node.status.since + ORPHAN_AFTER_S
                if now < due:
                    wakes[key] = min(due, wakes.get(key, due))
                    continue
            error = GONE if node is None else TOO_LONG
            steps += (
                Step(key=key, puts=(with_state(task, TaskState.ORPHANED, now, "task orphaned", error),))
                for task in view.tasks_of_node(node_id).values()
                if _may_live(task)
            )
        return Plan(steps=steps, wakes=wakes)

    def _is_ghost(self, view: Picture, node: Node, now: float, wakes: dict[Key, float]) -> bool:
        """Tell whether a node is to be forgotten now; if later, wake for it. Managers are members of raft and never ghosts."""
        after_s = 0.0 if view.cluster is None else view.cluster.spec.orchestration.ghost_nodes_after_s
        is_worker = node.role is Role.WORKER and node.spec.desired_role is Role.WORKER
        if after_s <= 0 or not is_worker or node.status.state is not NodeState.DOWN:
            return False
        if now >= node.status.since + after_s:
            return True
        wakes[node.id] = node.status.since + after_s
        return False


def _may_live(task: Task) -> bool:
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
