"""Records: what the frames of the log say, and the fold that turns them back into entries, term and vote.

A segment begins with the hard state of its time, so that older segments can be dropped without losing term or vote.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from services.raft.core.entries import Entries, Entry

PAYLOAD_BYTES = 8 << 20
"""A frame is closed before it grows beyond this."""


class Kind(IntEnum):
    """What a record says."""

    ENTRY = 1
    HARD_STATE = 2
    CUT = 3
    COMMIT = 4
    BEGIN = 5


_HEAD = struct.Struct("<BI")
_PAIR = struct.Struct("<QQ")
_ONE = struct.Struct("<Q")


def entry(item: Entry) -> bytes:
    """Record an appended entry."""
    return _record(Kind.ENTRY, _PAIR.pack(item.index, item.term) + item.command)


def hard_state(term: int, vote: str | None) -> bytes:
    """Record the current term and whom this member voted for in it."""
    return _record(Kind.HARD_STATE, _ONE.pack(term) + (vote or "").encode())


def cut(index: int) -> bytes:
    """Record that the entry at ``index`` and all behind it are gone."""
    return _record(Kind.CUT, _ONE.pack(index))


def commit(index: int) -> bytes:
    """Record how far the log is known to be committed; a hint that is never ahead of the truth."""
    return _record(Kind.COMMIT, _ONE.pack(index))


def begin(index: int, term: int) -> bytes:
    """Record that the log starts anew behind an installed snapshot."""
    return _record(Kind.BEGIN, _PAIR.pack(index, term))


def gather(items: list[bytes]) -> Iterator[bytes]:
    """Join records into payloads of frames; each frame must be durable before the next one is written."""
    start = size = 0
    for end, item in enumerate(items):
        if size and size + len(item) > PAYLOAD_BYTES:
            yield b"".join(items[start:end])
            start, size = end, 0
        size += len(item)
    if size:
        yield b"".join(items[start:])


class BrokenRecord(Exception):
    """A frame passed its checksums but does not make sense: written by something else, or a bug."""


@dataclass(slots=True)
class Recovered:
    """The fold of all records so far."""

    entries: Entries = field(default_factory=Entries)
    term: int = 0
    vote: str | None = None
    commit: int = 0

    def take(self, payload: bytes) -> int:
        """Fold one frame's records in and return the highest entry index among them (0 without entries)."""
        offset, highest = 0, 0
        while offset < len(payload):
            try:
                kind, length = _HEAD.unpack_from(payload, offset)
                body = payload[offset + _HEAD.size : offset + _HEAD.size + length]
                if len(body) != length:
                    raise BrokenRecord(f"a record of {length} bytes is cut short")
                highest = max(highest, self._one(Kind(kind), body))
            except (struct.error, ValueError) as error:
                raise BrokenRecord(str(error)) from error
            offset += _HEAD.size + length
        return highest

    def _one(self, kind: Kind, body: bytes) -> int:
        match kind:
            case Kind.ENTRY:
                index, term = _PAIR.unpack_from(body)
                if self.entries.items and index != self.entries.last + 1:
                    raise BrokenRecord(f"entry {index} follows entry {self.entries.last}")
                self.entries.append(Entry(body[_PAIR.size :], index, term))
                return int(index)
            case Kind.HARD_STATE:
                (self.term,) = _ONE.unpack_from(body)
                self.vote = body[_ONE.size :].decode() or None
            case Kind.CUT:
                self.entries.cut_from(_ONE.unpack(body)[0])
            case Kind.COMMIT:
                self.commit = max(self.commit, _ONE.unpack(body)[0])
            case Kind.BEGIN:
                self.entries.begin_at(*_PAIR.unpack(body))
                return self.entries.last
        return 0


def _record(kind: Kind, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body
