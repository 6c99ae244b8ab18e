"""The door to msgpack: messages and frames become bytes here and nowhere else, and hostile bytes end here.

Typed data is read by msgspec straight into frozen records, checked as it is read. The msgpack package reads the head of frames of
unknown kinds. What must stay true: no input whatever raises anything but ``InvalidArgument``, and its size is bounded before it is read.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import msgpack
import msgspec

from services.kit.errors import InvalidArgument, Problem
from services.kit.wire import frames

BYTES_MAX = 4 << 20
"""Nothing larger than a frame is ever decoded; ``kit.bus`` sets lower bounds where it needs them."""
_HEAD_BYTES_MAX = 64
_KINDS = frozenset({1, 2, 3, 4, 5, 6, 16, 17, 18, 19, 20, 21, 22})
_AT = " - at `"

StructT = TypeVar("StructT", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(frames.Frame)
_REFUSED = (msgspec.MsgspecError, ValueError, RecursionError)

encode_frame = _encoder.encode
"""Return the bytes of a frame."""


def encode(value: msgspec.Struct) -> bytes:
    """Return the bytes of a message; fields equal to their default are left out."""
    return _encoder.encode(value)


def decode(kind: type[StructT], data: bytes) -> StructT:
    """Return the message in the bytes, or raise InvalidArgument that names the field."""
    if len(data) > BYTES_MAX:
        raise _refusal(kind.__name__, f"has {len(data)} bytes, more than the {BYTES_MAX} allowed")
    try:
        value: StructT = _decoder(kind).decode(data)
    except _REFUSED as error:
        raise _explained(kind.__name__, error) from None
    return value


def decode_frame(data: bytes) -> frames.Frame | frames.Unknown:
    """Return the frame in the bytes, or raise InvalidArgument; a frame of an unknown kind is not an error."""
    try:
        frame: frames.Frame = _frame_decoder.decode(data)
    except _REFUSED as error:
        unknown = _unknown(data)
        if unknown is None:
            raise _explained("frame", error) from None
        return unknown
    return frame


@cache
def _decoder(kind: type[StructT]) -> msgspec.msgpack.Decoder[StructT]:
    return msgspec.msgpack.Decoder(kind)


def _unknown(data: bytes) -> frames.Unknown | None:
    """Read kind and id of a frame that is an array beginning with the number of an unknown kind."""
    head = msgpack.Unpacker(max_buffer_size=_HEAD_BYTES_MAX)
    head.feed(data[:_HEAD_BYTES_MAX])
    try:
        length = head.read_array_header()
        kind = head.unpack() if length else None
        call = head.unpack() if length > 1 else 0
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError):
        return None
    if type(kind) is not int or kind < 0 or kind in _KINDS:
        return None
    return frames.Unknown(kind=kind, id=call if type(call) is int and 0 < call < 1 << 53 else 0)


def _explained(what: str, error: Exception) -> InvalidArgument:
    if isinstance(error, RecursionError):
        return _refusal(what, "is nested too deeply")
    reason, _, place = str(error).partition(_AT)
    path = place.removesuffix("`").lstrip("$").lstrip(".")
    return _refusal(f"{what}.{path}" if path else what, reason[:1].lower() + reason[1:200])


def _refusal(path: str, reason: str) -> InvalidArgument:
    return InvalidArgument.of((Problem(path=path, reason=reason),))
