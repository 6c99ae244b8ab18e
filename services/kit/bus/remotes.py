"""Which manager to dial: a weighted choice that remembers how the last attempts went. Pure; used by ``kit.bus.session``.

SwarmKit's rules: observations are smoothed and clipped; a manager is picked with a probability proportional to its weight, and a small bias
lets one that failed be tried now and then.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer

WORKED = 10.0
FAILED = -10.0
WEIGHT_MAX = 256.0
SMOOTHING = 0.5
BIAS = 0.001


class Remotes:
    """The managers that are known, each with a weight."""

    def __init__(self, peers: Iterable[ManagerPeer] = ()) -> None:
        self._peers: dict[NodeId, ManagerPeer] = {}
        self._weights: dict[NodeId, float] = {}
        self.replace(peers)

    @property
    def peers(self) -> tuple[ManagerPeer, ...]:
        """All managers, in the order of their ids."""
        return tuple(self._peers.values())

    def replace(self, peers: Iterable[ManagerPeer]) -> None:
        """Know exactly these from now on; those that stay keep their weight, new ones begin as if they had worked once."""
        self._peers = {peer.node_id: peer for peer in sorted(peers, key=lambda peer: peer.node_id)}
        self._weights = {node_id: self._weights.get(node_id, WORKED * SMOOTHING) for node_id in self._peers}

    def observe(self, node_id: NodeId, observation: float) -> None:
        """Remember how an attempt went (``WORKED`` or ``FAILED``); a stranger is not remembered."""
        if node_id in self._weights:
            smoothed = self._weights[node_id] * (1 - SMOOTHING) + observation * SMOOTHING
            self._weights[node_id] = max(-WEIGHT_MAX, min(smoothed, WEIGHT_MAX))

    def weight(self, node_id: NodeId) -> float:
        """Return a manager's weight; 0 for a stranger."""
        return self._weights.get(node_id, 0.0)

    def find(self, *, node_id: str = "", addr: str = "") -> ManagerPeer | None:
        """Return the manager of this id, else the one at this address."""
        by_id = self._peers.get(NodeId(node_id))
        if by_id is not None:
            return by_id
        return next((peer for peer in self._peers.values() if addr and peer.addr == addr), None)

    def select(self, rng: random.Random, excluding: Collection[NodeId] = ()) -> ManagerPeer | None:
        """Pick a manager that can be dialled (its certificate is known); None when there is none."""
        candidates = [
            peer for peer in self._peers.values() if peer.node_id not in excluding and peer.addr and peer.certificate
        ]
        if not candidates:
            return None
        weights = [max(self._weights[peer.node_id], 0.0) + BIAS for peer in candidates]
        return rng.choices(candidates, weights)[0]
