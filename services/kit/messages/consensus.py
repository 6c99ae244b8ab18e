"""Consensus: what raft members say to one another on the raft port. Every message is one-way.

``message`` is the transport's own msgpack array (see the raft process); the sender is the authenticated peer, never a field.
"""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, Cast, Feed, Owner
from services.kit.model.value import Value


class RaftMessage(Value, frozen=True, kw_only=True):
    """One message of the raft protocol."""

    message: bytes


class Refused(Value, frozen=True, kw_only=True):
    """The receiver does not count the sender as a member."""

    reason: str
    removed: bool = False
    """The sender was a member and was removed."""


RAFT = Cast(name="consensus.raft", message=RaftMessage, owner=Owner.RAFT, roles=MANAGERS)
REFUSED = Cast(name="consensus.refused", message=Refused, owner=Owner.RAFT, roles=MANAGERS)


class SnapshotRequest(Value, frozen=True, kw_only=True):
    """A member that is too far behind for the log fetches a snapshot; with ``index`` it goes on with one that was cut off."""

    index: int = 0
    sequence: int = 0
    """The first piece wanted."""


class SnapshotPiece(Value, frozen=True, kw_only=True):
    """One piece, in order."""

    index: int
    """Index of the snapshot's last entry; pieces of another snapshot start again at sequence 0."""
    sequence: int
    payload: bytes
    last: bool = False


SNAPSHOT = Feed(
    name="consensus.snapshot", request=SnapshotRequest, item=SnapshotPiece, owner=Owner.RAFT, roles=MANAGERS
)

METHODS = (RAFT, REFUSED, SNAPSHOT)
