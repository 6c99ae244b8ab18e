"""Consensus: what raft members say to one another on the raft port. Every message is one-way.

``message`` is the transport's own msgpack array (see the raft process); the sender is the authenticated peer, never a field.
"""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, Cast, Owner
from services.kit.model.value import Value


class RaftMessage(Value, frozen=True, kw_only=True):
    """One message of the raft protocol."""

    message: bytes


class Refused(Value, frozen=True, kw_only=True):
    """The receiver does not count the sender as a member."""

    reason: str


RAFT = Cast(name="consensus.raft", message=RaftMessage, owner=Owner.RAFT, roles=MANAGERS)
REFUSED = Cast(name="consensus.refused", message=Refused, owner=Owner.RAFT, roles=MANAGERS)

METHODS = (RAFT, REFUSED)
