"""Frames: how the log and the snapshots lie in a file, and how a torn tail is told from damage.

A frame is written and made durable as a whole, and the next one is begun only afterwards. So an unreadable frame with nothing
readable behind it is the torn end of the last write; with a readable frame behind it, it was durable once and is damaged now.

    magic 4 | length 4 | sequence 8 | crc32 of the payload 4 | crc32 of the header before 4 | payload
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"SBF1"
_HEADER = struct.Struct("<4sIQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
PAYLOAD_BYTES_MAX = 64 << 20
"""A frame that claims more is not one."""


class Frame(NamedTuple):
    """A readable frame."""

    sequence: int
    payload: memoryview
    end: int
    """Offset behind it."""


class Scan(NamedTuple):
    """What a run of bytes holds: its readable frames, and what is behind them."""

    frames: list[Frame]
    end: int
    """Offset behind the last readable frame of the unbroken run."""
    damaged: bool
    """True when a readable frame follows the break at ``end``."""


def pack(sequence: int, payload: bytes) -> bytes:
    """Return the frame's bytes."""
    assert len(payload) <= PAYLOAD_BYTES_MAX, f"a frame of {len(payload)} bytes"
    header = _HEADER.pack(MAGIC, len(payload), sequence, zlib.crc32(payload))
    return b"".join((header, _CRC.pack(zlib.crc32(header)), payload))


def claimed_length(header: bytes) -> int | None:
    """Return the payload length that a header claims, None when it is no header."""
    if len(header) < HEADER_BYTES:
        return None
    magic, length, _, _ = _HEADER.unpack_from(header)
    return int(length) if magic == MAGIC and length <= PAYLOAD_BYTES_MAX else None


def read(data: memoryview, offset: int) -> Frame | None:
    """Return the frame at this offset, or None when there is no whole and sound one."""
    body = offset + HEADER_BYTES
    if body > len(data):
        return None
    header = data[offset : offset + _HEADER.size]
    magic, length, sequence, crc = _HEADER.unpack(header)
    if magic != MAGIC or length > PAYLOAD_BYTES_MAX or body + length > len(data):
        return None
    if _CRC.unpack(data[offset + _HEADER.size : body])[0] != zlib.crc32(header):
        return None
    payload = data[body : body + length]
    return Frame(sequence, payload, body + length) if zlib.crc32(payload) == crc else None


def scan(data: bytes, offset: int, sequence: int) -> Scan:
    """Read frames numbered from ``sequence`` on until the bytes end or break."""
    view = memoryview(data)
    frames: list[Frame] = []
    while (frame := read(view, offset)) is not None and frame.sequence == sequence:
        frames.append(frame)
        offset, sequence = frame.end, sequence + 1
    behind = any(frame.sequence >= sequence for frame in _anywhere(data, view, offset))
    return Scan(frames, offset, behind)


def _anywhere(data: bytes, view: memoryview, offset: int) -> Iterator[Frame]:
    while (offset := data.find(MAGIC, offset)) >= 0:
        frame = read(view, offset)
        if frame is not None:
            yield frame
        offset += 1
