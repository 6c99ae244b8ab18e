"""May a service's new task run beside its old ones? Asked by the updater, for which start-first must never be a deadlock.

Two things keep new tasks out as long as the old ones run: the limit of tasks per node, and ports of the node itself. Anything else that
is missing (room, a label) would be missing after the old task stopped as well, or belongs to others.
"""

from __future__ import annotations

from services.dispatcher.core.picture import Picture
from services.dispatcher.core.tasks import is_global
from services.kit.model.constraints import parse_constraints, satisfies
from services.kit.model.ids import NodeId
from services.kit.model.objects import Service
from services.kit.model.states import Availability, NodeState, PublishMode, TaskState


def has_room_beside(view: Picture, service: Service) -> bool:
    """Tell whether any node may have one more task of a service while its present ones run. Rules without a limit say yes."""
    most = service.spec.task.placement.max_replicas
    has_ports = any(p.publish_mode is PublishMode.HOST and p.published_port for p in service.spec.endpoint.ports)
    if not most and not has_ports:
        return True
    if is_global(service.spec):
        return not has_ports and most > 1  # its node is the only one that counts
    counts: dict[NodeId, int] = {}
    for slot in view.slots_of(service.id).values():
        for task in slot.values():
            holds = has_ports or task.desired_state <= TaskState.COMPLETE
            if task.node_id is not None and holds and not task.status.state.terminal:
                counts[task.node_id] = counts.get(task.node_id, 0) + 1
    limit = 1 if has_ports else most
    constraints = parse_constraints(service.spec.task.placement.constraints)
    return any(
        counts.get(node.id, 0) < limit
        for node in view.nodes.values()
        if node.status.state is NodeState.READY
        and node.spec.availability is Availability.ACTIVE
        and satisfies(node, constraints)
    )
