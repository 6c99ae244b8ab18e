"""What a member knows of the others from their messages: when they were heard, which run and which log directory speaks."""

from __future__ import annotations

from dataclasses import dataclass

from services.kit.model.ids import NodeId
from services.kit.model.states import Reachability
from services.raft.core.members import Configuration
from services.raft.core.messages import Hello


@dataclass(slots=True)
class _Peer:
    heard_at: float
    incarnation: str = ""
    run: str = ""


class Peers:
    """Everybody who has spoken."""

    def __init__(self, *, silent_after_s: float) -> None:
        self._silent_after_s = silent_after_s
        self._peers: dict[NodeId, _Peer] = {}

    def hear(self, node_id: NodeId, now: float) -> None:
        """Note a message."""
        peer = self._peers.get(node_id)
        if peer is None:
            self._peers[node_id] = _Peer(heard_at=now)
        else:
            peer.heard_at = now

    def heard_at(self, node_id: NodeId) -> float:
        """Return when a peer was heard last."""
        peer = self._peers.get(node_id)
        return float("-inf") if peer is None else peer.heard_at

    def incarnation(self, node_id: NodeId) -> str:
        """Return which log directory speaks; empty before it has said so."""
        peer = self._peers.get(node_id)
        return "" if peer is None else peer.incarnation

    def greet(self, node_id: NodeId, hello: Hello, now: float) -> bool:
        """Note a Hello; True when it comes from a new run of the process."""
        self.hear(node_id, now)
        peer = self._peers[node_id]
        fresh = (peer.incarnation, peer.run) != (hello.incarnation, hello.run)
        peer.incarnation, peer.run = hello.incarnation, hello.run
        return fresh

    def reachability(self, node_id: NodeId, now: float) -> Reachability:
        """Tell whether a member answers."""
        peer = self._peers.get(node_id)
        if peer is None:
            return Reachability.UNKNOWN
        return Reachability.REACHABLE if now - peer.heard_at < self._silent_after_s else Reachability.UNREACHABLE

    def is_same(self, node_id: NodeId, configuration: Configuration) -> bool:
        """Tell whether a sender is the member that was added: same id, and the log directory it had then."""
        record = configuration.members.get(node_id)
        if record is None:
            return False
        peer = self._peers.get(node_id)
        return peer is None or not peer.incarnation or peer.incarnation == record.incarnation
