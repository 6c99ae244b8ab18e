"""The enforcer: tasks leave a node that does not fit them any more. Keys are node ids.

A node's labels, role, platform or resources may change under its tasks. Those that it may not keep are given up, with the reason, and
replaced elsewhere as their restart policy says; drained, paused and lost nodes are other loops' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.dispatcher.core.fitness import misfits
from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.replacing import replacement
from services.dispatcher.core.tasks import NewId, wanted
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.states import Availability, NodeState, TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table


class Enforce:
    """Evicts tasks."""

    name = "enforce"
    tables = frozenset({Table.NODE})

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all nodes."""
        return list(view.nodes)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A node that may have become another one."""
        old, new = event.old, event.new
        if not isinstance(old, Node) or not isinstance(new, Node):
            return ()
        before = (old.spec, old.role, old.description, old.status.addr)
        return (new.id,) if before != (new.spec, new.role, new.description, new.status.addr) else ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Evict what does not fit."""
        steps: list[Step] = []
        for key in keys:
            node = view.nodes.get(NodeId(str(key)))
            if node is None or node.spec.availability is not Availability.ACTIVE or node.status.state is NodeState.DOWN:
                continue
            for task, reason in misfits(view, node):
                service = view.services.get(task.service_id)
                if service is None:
                    steps.append(Step(key=key, puts=(wanted(task, TaskState.SHUTDOWN, reason),)))
                    continue
                step = replacement(view, service, task, self._new_id, now, lost=True, reason=reason)
                steps.append(Step(key=key, puts=step.puts))
        return Plan(steps=steps)
