"""Sessions of agents: who is registered, who beats, who fell silent. One machine for all nodes of a term.

Events: ``register``, ``beat``, ``leave`` and the passing of time (``expired``, driven by ``deadline``). What must stay true: a node has
at most one valid session; only the heartbeat decides that a node is down, never a stream that broke.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass

from services.kit.errors import InvalidArgument, NotFound, Problem, Unavailable
from services.kit.model.ids import NodeId, SessionId
from services.kit.model.objects import Node
from services.kit.model.specs import DispatcherConfig
from services.kit.model.states import NodeState

GRACE = 3
"""Periods of silence until a node is down."""
GRACE_AFTER_LEADER_CHANGE = 6
JITTER = 0.1
"""Part of the period by which each one varies: half a second of five, as in SwarmKit."""
ATTEMPTS_MAX = 3
ATTEMPT_GAP_S = 8.0
"""More registrations than this, each within this time of the one before, are refused."""
HEARTBEAT_FAILURE = "heartbeat failure"


@dataclass(slots=True)
class _Agent:
    session: SessionId | None = None
    expires_at: float = 0.0
    attempts: int = 0
    attempted_at: float = float("-inf")


class Sessions:
    """The sessions of one term of leadership. Times are seconds of the leader's clock."""

    def __init__(self, rng: random.Random, period_s: float = DispatcherConfig().heartbeat_period_s) -> None:
        self.period_s = period_s
        """May change at any time; holds from the next beat on."""
        self._rng = rng
        self._agents: dict[NodeId, _Agent] = {}
        self._expiries: list[tuple[float, NodeId]] = []

    def begin(self, nodes: Iterable[Node], now: float) -> list[NodeId]:
        """Wait for every node that was not known to be down, and return those nodes."""
        known = [node.id for node in nodes if node.status.state is not NodeState.DOWN]
        for node in known:
            self._await(node, self._agents.setdefault(node, _Agent()), now, self.period_s * GRACE_AFTER_LEADER_CHANGE)
        return known

    def register(self, node: NodeId, offered: SessionId, fresh: SessionId, now: float) -> SessionId:
        """Return the session to use: the offered one when it is still valid, else the fresh one.

        Raises Unavailable when the node registers too often.
        """
        agent = self._agents.setdefault(node, _Agent())
        if offered and offered == agent.session:
            self._await(node, agent, now, self.period_s * GRACE)
            return offered
        self._limit(agent, now)
        agent.session = fresh
        self._await(node, agent, now, self.period_s * GRACE)
        return fresh

    def beat(self, node: NodeId, session: SessionId, now: float) -> float:
        """Take a heartbeat and return the time within which the next one is expected."""
        self.check_session(node, session)
        period_s = self.period_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._await(node, self._agents[node], now, period_s * GRACE)
        return period_s

    def check_session(self, node: NodeId, session: SessionId) -> None:
        """Raise unless this is the node's valid session."""
        agent = self._agents.get(node)
        if agent is None:
            raise NotFound(f"node {node} is not registered")
        if not session or agent.session != session:
            raise InvalidArgument.of(
                (Problem(path="session_id", reason="session invalid", value=session, hint="register again"),)
            )

    def is_valid(self, node: NodeId, session: SessionId) -> bool:
        """Tell whether this is the node's valid session."""
        agent = self._agents.get(node)
        return agent is not None and agent.session == session

    def connected(self) -> set[NodeId]:
        """Return the nodes that have a session."""
        return {node for node, agent in self._agents.items() if agent.session is not None}

    def forget(self, node: NodeId) -> None:
        """The node was removed from the swarm."""
        self._agents.pop(node, None)

    def deadline(self) -> float | None:
        """Return when the next node may have been silent for too long."""
        while self._expiries:
            at, node = self._expiries[0]
            agent = self._agents.get(node)
            if agent is not None and agent.expires_at <= at:
                return at
            heapq.heappop(self._expiries)
            if agent is not None and agent.expires_at < float("inf"):
                heapq.heappush(self._expiries, (agent.expires_at, node))
        return None

    def expired(self, now: float) -> list[NodeId]:
        """Return the nodes that have been silent for too long by now; their sessions are over."""
        silent: list[NodeId] = []
        while (at := self.deadline()) is not None and at <= now:
            _, node = heapq.heappop(self._expiries)
            agent = self._agents[node]
            agent.session = None
            agent.expires_at = float("inf")
            silent.append(node)
        return silent

    def describe(self) -> dict[str, str]:
        """Return each node's state, for inspection."""
        return {node: "registered" if agent.session else "awaited" for node, agent in sorted(self._agents.items())}

    def _await(self, node: NodeId, agent: _Agent, now: float, grace_s: float) -> None:
        """Expect a sign of life. A node has one entry in the queue; ``deadline`` moves it when it was put off."""
        queued = 0.0 < agent.expires_at < float("inf")
        earlier = now + grace_s < agent.expires_at
        agent.expires_at = now + grace_s
        if not queued or earlier:
            heapq.heappush(self._expiries, (agent.expires_at, node))

    def _limit(self, agent: _Agent, now: float) -> None:
        agent.attempts = agent.attempts + 1 if now - agent.attempted_at <= ATTEMPT_GAP_S else 1
        agent.attempted_at = now
        if agent.attempts > ATTEMPTS_MAX:
            raise Unavailable(f"too many registrations: wait {ATTEMPT_GAP_S:g} seconds")
