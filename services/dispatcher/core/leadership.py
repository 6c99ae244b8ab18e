"""When this manager acts: it leads, everything earlier is applied, and the ca has made the cluster. One machine a process.

Events: what raft says of itself, and that the view moved. What must stay true: at most one term is open, and it ends the moment raft
no longer vouches for it; a term never outlives a change of raft's term.
"""

from __future__ import annotations

from services.kit.errors import Details, Unavailable
from services.kit.messages.store import RaftStatus
from services.kit.model.ids import NodeId


class Leadership:
    """Decides when a term opens and closes."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self.status: RaftStatus | None = None
        """What raft said last; None while it cannot be asked."""
        self.open_term: int | None = None

    def heard(self, status: RaftStatus | None) -> bool:
        """Take raft's word; True when the open term is over."""
        self.status = status
        if self.open_term is not None and (not self.leads or status is None or status.term != self.open_term):
            self.open_term = None
            return True
        return False

    @property
    def leads(self) -> bool:
        """Tell whether raft says that this manager leads and is ready to."""
        status = self.status
        return status is not None and status.ready and status.leader == self._node

    def may_open(self, version: int, *, has_cluster: bool) -> bool:
        """Tell whether a term can open on a view of this version; if so it is open from now on."""
        status = self.status
        if (
            status is None
            or not self.leads
            or self.open_term is not None
            or not has_cluster
            or version < status.version
        ):
            return False
        self.open_term = status.term
        return True

    def give_up(self) -> None:
        """The term is over although raft vouches for it: an outcome is unknown, and all is read anew."""
        self.open_term = None

    def refusal(self) -> Unavailable:
        """Return the error for who asks a manager that does not lead."""
        status = self.status
        if status is None:
            return Unavailable("the store of this manager does not answer", Details(retry_ms=200))
        if status.leader is None:
            return Unavailable("the swarm has no leader at the moment", Details(retry_ms=200))
        if status.leader == self._node:
            return Unavailable("this manager has just become the leader", Details(retry_ms=50))
        peer = status.leader_peer
        return Unavailable(
            "another manager leads", Details(leader=status.leader, leader_addr="" if peer is None else peer.addr)
        )
