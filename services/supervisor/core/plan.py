"""Which children a node has, what each needs before it may begin, and in which order they stop.

All children are spawned at once, so that their imports run side by side; a child is given its first facts, and with them the right to
begin, when what it needs is there.
"""

from __future__ import annotations

from services.kit.model.states import Role

AGENT_HALF = ("gateway", "agent")
"""Runs on every node."""
MANAGER_HALF = ("raft", "ca", "dispatcher")
"""Runs while the node is a manager."""
CHILDREN = (*MANAGER_HALF, *AGENT_HALF)
OPTIONAL = ("web",)
"""Runs where it is asked for. The node is ready without it and goes on when it cannot."""

NEEDS: dict[str, frozenset[str]] = {
    "raft": frozenset(),
    "ca": frozenset({"raft"}),
    "dispatcher": frozenset({"raft"}),
    "gateway": frozenset(),
    "agent": frozenset({"gateway"}),
    "web": frozenset({"gateway"}),
}
MANAGER_STOP_STAGES = (("dispatcher",), ("ca",), ("raft",))
STOP_STAGES = (("agent", "web"), ("gateway", "dispatcher"), ("ca",), ("raft",))
"""Those who ask stop before those who answer."""


def wanted(role: Role | None) -> tuple[str, ...]:
    """Return the children of a node with this role; None while it is not known."""
    return CHILDREN if role is Role.MANAGER else AGENT_HALF


def optional(*, listen_http: str) -> tuple[str, ...]:
    """Return the optional children that the node's settings ask for."""
    return OPTIONAL if listen_http else ()


def may_begin(child: str, *, has_identity: bool, bootstrapping: bool, ready: frozenset[str]) -> bool:
    """Tell whether a child gets its facts; before there is an identity only a ca that will make one does."""
    if not has_identity:
        return bootstrapping and child == "ca"
    return ready >= NEEDS[child]
