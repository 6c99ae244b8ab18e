"""What a snapshot says: a head, the objects in batches, the sessions, an end that counts. Each part is the payload of one frame."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from services.kit.state.sessions import ClientSession
from services.kit.state.state import FrozenState, State
from services.kit.state.transaction import Change
from services.raft.core.members import Configuration

PART_BYTES = 192 << 10
"""Objects are gathered up to this; a part then fits into a stream's credit."""
_CHANGE_BYTES = 80


class Part(msgspec.Struct, array_like=True, frozen=True):
    """Base of the parts."""


class Head(Part, tag=1, frozen=True):
    """The log entry that the snapshot ends with, and who was a member there."""

    index: int
    term: int
    version: int
    configuration: Configuration


class Objects(Part, tag=2, frozen=True):
    """Some objects, as creates."""

    changes: tuple[Change, ...]


class Sessions(Part, tag=3, frozen=True):
    """One client's remembered results."""

    session: ClientSession


class End(Part, tag=4, frozen=True):
    """How many objects and sessions came before."""

    objects: int
    sessions: int


AnyPart = Head | Objects | Sessions | End

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyPart] = msgspec.msgpack.Decoder(AnyPart)


class BrokenSnapshot(Exception):
    """The parts do not make a whole snapshot."""


def encode_parts(head: Head, frozen: FrozenState) -> Iterator[bytes]:
    """Yield the payloads of a snapshot."""
    yield _encoder.encode(head)
    batch: list[Change] = []
    size = objects = 0
    for change in frozen.changes():
        batch.append(change)
        size += _CHANGE_BYTES + len(change.object)
        objects += 1
        if size >= PART_BYTES:
            yield _encoder.encode(Objects(tuple(batch)))
            batch, size = [], 0
    if batch:
        yield _encoder.encode(Objects(tuple(batch)))
    for session in frozen.sessions:
        yield _encoder.encode(Sessions(session))
    yield _encoder.encode(End(objects, len(frozen.sessions)))


class Assembly:
    """Builds a state from the payloads, in order."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.state = State()
        self.whole = False
        self._objects = 0
        self._sessions: list[ClientSession] = []

    def take(self, payload: bytes) -> None:
        """Take the next payload; raises BrokenSnapshot."""
        try:
            part = _decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise BrokenSnapshot(str(error)) from error
        if self.whole or isinstance(part, Head) != (self.head is None):
            raise BrokenSnapshot(f"a {type(part).__name__} part is out of place")
        match part:
            case Head():
                self.head = part
            case Objects():
                self.state.absorb(0, part.changes, 0.0)
                self._objects += len(part.changes)
            case Sessions():
                self._sessions.append(part.session)
            case End():
                self._finish(part)

    def _finish(self, end: End) -> None:
        assert self.head is not None
        if (end.objects, end.sessions) != (self._objects, len(self._sessions)):
            raise BrokenSnapshot(f"{self._objects} objects instead of {end.objects}")
        self.state.absorb(self.head.version, (), 0.0)
        self.state.sessions.load(tuple(self._sessions))
        self.whole = True
