"""What a change of a node does to the quorum of managers."""

from __future__ import annotations

from services.kit.errors import FailedPrecondition, NotFound
from services.kit.messages.store import Member, RaftStatus
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerStatus, Node
from services.kit.model.states import Reachability, Role


def manager_status(node: Node, raft: RaftStatus | None) -> ManagerStatus | None:
    """Return a manager's part in raft, for reading."""
    member = member_of(raft, node.id)
    if member is None:
        return None
    return ManagerStatus(raft_addr=member.raft_addr, leader=member.leader, reachability=member.reachability)


def member_of(raft: RaftStatus | None, node_id: NodeId) -> Member | None:
    """Return the member that a node is, None for a node that is none."""
    members = () if raft is None else raft.members
    return next((member for member in members if member.node_id == node_id), None)


def check_demotion(node: Node, raft: RaftStatus | None, managers: int) -> None:
    """Raise when the swarm would lose its quorum (or its last manager) without this node."""
    if node.spec.desired_role is Role.MANAGER and managers <= 1:
        raise FailedPrecondition("the last manager of the swarm cannot be demoted")
    member = member_of(raft, node.id)
    if member is None:
        raise NotFound(f"node {node.id} is not a member of raft")
    assert raft is not None
    others = [other for other in raft.members if other.node_id != node.id]
    reachable = sum(other.reachability is not Reachability.UNREACHABLE for other in others)
    if reachable < len(others) // 2 + 1:
        raise FailedPrecondition("the swarm would lose its quorum without this manager")
