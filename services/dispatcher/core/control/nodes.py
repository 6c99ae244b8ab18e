"""Nodes: update (availability, labels, role) and remove."""

from __future__ import annotations

import msgspec

from services.dispatcher.core.control.answers import Answer, out_of_sequence
from services.dispatcher.core.control.members import check_demotion, manager_status, member_of
from services.dispatcher.core.control.refs import find_node, node_name
from services.dispatcher.core.loops.nodes import GONE
from services.dispatcher.core.tasks import with_state
from services.kit.errors import FailedPrecondition, InvalidArgument
from services.kit.messages.control import RemoveNodeRequest, UpdateNodeRequest
from services.kit.messages.store import RaftStatus
from services.kit.model.objects import Node, RevokedCertificate
from services.kit.model.states import NodeState, Role, TaskState
from services.kit.model.validate import node_problems
from services.kit.state.transaction import OPS_MAX, Op, remove, update
from services.kit.state.view import View


def shown_node(node: Node, raft: RaftStatus | None) -> Node:
    """Return a node as users see it: with its part in raft."""
    return msgspec.structs.replace(node, manager_status=manager_status(node, raft))


def update_node(view: View, request: UpdateNodeRequest, raft: RaftStatus | None) -> Answer:
    """Return the write that replaces a node's spec."""
    node = find_node(view, request.node_id)
    if request.version != node.meta.version:
        raise out_of_sequence("node", node.meta.version, request.version)
    problems = node_problems(request.spec)
    if problems:
        raise InvalidArgument.of(problems)
    if node.spec.desired_role is Role.MANAGER and request.spec.desired_role is Role.WORKER:
        managers = sum(other.spec.desired_role is Role.MANAGER for other in view.nodes.values())
        check_demotion(node, raft, managers)
    fresh = msgspec.structs.replace(node, spec=request.spec, manager_status=None)
    return Answer(ops=(update(fresh),), thing=fresh)


def remove_node(view: View, request: RemoveNodeRequest, raft: RaftStatus | None, now: float) -> Answer:
    """Return the writes that remove a node: it is revoked, and nobody waits for its tasks any more.

    A node with more tasks than a transaction holds leaves the rest to the loop that looks after lost nodes.
    """
    node = find_node(view, request.node_id)
    name = node_name(node) or node.id
    if member_of(raft, node.id) is not None:
        raise FailedPrecondition(f"node {name} is a manager: demote it first")
    if node.status.state is NodeState.READY and not request.force:
        raise FailedPrecondition(f"node {name} is ready: stop it first, or use force")
    ops: list[Op] = [remove(node)]
    cluster = view.cluster
    certificate = node.certificate
    if cluster is not None and certificate.public_key:
        revoked = RevokedCertificate(
            node_id=node.id, public_key=certificate.public_key, expires_at=certificate.not_after
        )
        ops.append(update(msgspec.structs.replace(cluster, revoked=(*cluster.revoked, revoked))))
    live = (task for task in view.tasks_of_node(node.id).values() if task.status.state < TaskState.COMPLETE)
    ops += (update(with_state(task, TaskState.ORPHANED, now, "task orphaned", GONE)) for task in live)
    return Answer(ops=tuple(ops[:OPS_MAX]), thing=node)
