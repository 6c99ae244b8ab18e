"""Where a request goes next: to this node's own process, to the leader's gateway, back to the caller, or nowhere until something changes.

Asked by the proxy after each failed attempt. What must stay true: a call crosses from one manager to another at most once; a call that
may have had its effect is repeated only when repeating does no harm; nodes are told where the leader is, only users and joining
machines (who know no other manager, or cannot redial) are taken there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from services.kit.errors import SwarmError, Unavailable

PAUSE_FIRST_S = 0.05
PAUSE_LONGEST_S = 1.0


class Origin(Enum):
    """Whose request it is."""

    NODE = auto()
    """An agent or gateway of the swarm: it redials the leader itself."""
    USER = auto()
    """Somebody at the control socket."""
    JOINER = auto()
    """A machine without a certificate."""
    MANAGER_GATEWAY = auto()
    """It was forwarded once already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try that failed."""

    number: int
    """Counted from 1."""
    asked: str
    """Node id of the leader whose gateway was asked; empty for this node's own process."""
    error: SwarmError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Give the error to the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLeader:
    """Send it to the gateway of this manager."""

    node_id: str
    addr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitChange:
    """Ask this node's process again when leadership has changed, or after this time."""

    at_most_s: float


Next = Answer | AskLeader | AwaitChange


def after(attempt: Attempt, *, origin: Origin, may_repeat: bool, me: str) -> Next:
    """Return what to do after a failed attempt. ``may_repeat``: a second run of the call does no harm."""
    error = attempt.error
    if not isinstance(error, Unavailable) or origin in {Origin.NODE, Origin.MANAGER_GATEWAY}:
        return Answer()
    if error.details.maybe_executed and not may_repeat:
        return Answer()
    leader = error.details.leader
    if not attempt.asked and leader and leader != me:
        return AskLeader(node_id=leader, addr=error.details.leader_addr)
    pause_s = min(PAUSE_LONGEST_S, PAUSE_FIRST_S * (1 << min(attempt.number - 1, 10)))
    return AwaitChange(at_most_s=max(pause_s, error.details.retry_ms / 1000))
