"""What members say to one another: msgpack arrays of exact types, the first element tells which.

Written and read only by the raft process; the sender is whoever the connection was authenticated as. Everything that an answer
depends on is durable before the answer leaves (see ``durable``).
"""

from __future__ import annotations

import msgspec

from services.raft.core.entries import Entry
from services.raft.core.members import MemberRecord


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages."""


class Hello(Message, tag=1, frozen=True):
    """The first on every connection, and repeated: which log directory and which run of the process speaks."""

    incarnation: str
    run: str


class Append(Message, tag=2, frozen=True):
    """Entries behind ``prev_index``, or only a heartbeat. Entries are (command, index, term)."""

    term: int
    commit_index: int
    prev_index: int
    prev_term: int
    entries: list[tuple[bytes, int, int]]


class Ack(Message, tag=3, frozen=True):
    """An answer to Append. Carries its term, so that one from another term is void (hazard H4)."""

    term: int
    next_index: int
    reset: bool
    success: bool


class VoteRequest(Message, tag=4, frozen=True):
    """A candidate asks. ``transfer`` says that the leader wanted this election."""

    term: int
    last_index: int
    last_term: int
    transfer: bool


class Vote(Message, tag=5, frozen=True):
    """A vote given; a refusal is silence."""

    term: int


class TimeoutNow(Message, tag=6, frozen=True):
    """The leader asks for an election at once (leadership transfer)."""

    term: int


class PreVoteRequest(Message, tag=7, frozen=True):
    """Would you vote for me in ``term``? Nobody's state changes."""

    term: int
    last_index: int
    last_term: int
    round: int


class PreVote(Message, tag=8, frozen=True):
    """Yes, in the named round."""

    round: int


class ReadPing(Message, tag=9, frozen=True):
    """Am I still your leader in this term?"""

    term: int
    round: int


class ReadPong(Message, tag=10, frozen=True):
    """You are."""

    term: int
    round: int


class ReadAsk(Message, tag=11, frozen=True):
    """A follower asks the leader for a read index."""

    ask: int


class ReadAnswer(Message, tag=12, frozen=True):
    """The read index, or 0 when the leader could not confirm itself."""

    ask: int
    index: int


class Behind(Message, tag=13, frozen=True):
    """The leader no longer has the entries you need: fetch its snapshot. Counts as a heartbeat."""

    term: int
    snapshot_index: int


class Introduction(Message, tag=14, frozen=True):
    """Sent on every new link: where to send answers. A joiner has no list of members yet, and that of a member may be old."""

    member: MemberRecord


AnyMessage = (
    Hello
    | Append
    | Ack
    | VoteRequest
    | Vote
    | TimeoutNow
    | PreVoteRequest
    | PreVote
    | ReadPing
    | ReadPong
    | ReadAsk
    | ReadAnswer
    | Behind
    | Introduction
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """Return a message's bytes."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """Return the message; raises msgspec.DecodeError on anything that is none."""
    return _decoder.decode(data)


def as_entries(message: Append) -> list[Entry]:
    """Return the entries of an Append."""
    return [Entry._make(item) for item in message.entries]
