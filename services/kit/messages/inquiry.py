"""Inquiry: what happened to an object, and why something is not where it should be. Part of the control API."""

from __future__ import annotations

from services.kit.messages.control import ObjectEvents
from services.kit.messages.method import MANAGERS, Call, Owner
from services.kit.model.value import Value


class HistoryRequest(Value, frozen=True, kw_only=True):
    """What happened to one object (any kind, by id, name or prefix), as far as this manager remembers."""

    ref: str
    related: bool = False
    """For a service its tasks as well, for a node the tasks that were given to it."""
    most: int = 200
    """At most so many transactions, the newest."""


class HistoryReply(Value, frozen=True, kw_only=True):
    """Transactions in their order, with what was there before and after."""

    steps: tuple[ObjectEvents, ...] = ()
    since: int = 0
    """Version from which on this manager remembers everything."""


class Refusal(Value, frozen=True, kw_only=True):
    """One reason why nodes may not have a task."""

    reason: str
    nodes: int
    """How many nodes have this as their first reason."""
    mend: str = ""
    """What would take it away."""


class NearestMiss(Value, frozen=True, kw_only=True):
    """The node that lacks least."""

    node_id: str
    node_name: str
    lacks: tuple[str, ...]
    """Everything that keeps the task from it."""


class Finding(Value, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    about: str
    """What: a task, slot, service or node, by name."""
    state: str
    """Where it is."""
    waits_for: str
    """What has to happen."""
    since: float = 0.0
    """Wall-clock seconds since the epoch; 0 when that is not known."""
    refusals: tuple[Refusal, ...] = ()
    nearest: NearestMiss | None = None
    mend: str = ""
    """What a user can do about it."""


class WhyRequest(Value, frozen=True, kw_only=True):
    """Why is this task, service or node not where it should be?"""

    ref: str
    stale: bool = False


class WhyReply(Value, frozen=True, kw_only=True):
    """Findings, the most telling first; none when all is as it should be."""

    noun: str
    """task, service or node."""
    name: str
    findings: tuple[Finding, ...] = ()


HISTORY = Call(
    name="control.history",
    request=HistoryRequest,
    reply=HistoryReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
WHY = Call(
    name="control.why",
    request=WhyRequest,
    reply=WhyReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)

METHODS = (HISTORY, WHY)
