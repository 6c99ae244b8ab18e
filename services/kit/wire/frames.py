"""The frames of bus/1: one ZeroMQ frame is one msgpack array whose first element is the kind. Made and read by ``kit.bus`` only.

What must stay true: fields are only ever added at the end and with a default (a receiver ignores what it does not know); every field
is typed and bounded here, so that nothing of a wrong shape reaches the code that acts on frames. Kinds below 16 speak about the
connection, and a receiver ignores one that it does not know; kinds from 16 on carry the id of a call, and an unknown one is answered
``Unimplemented``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from services.kit.errors import NO_DETAILS, Details

VERSION = 1
"""The version of the protocol that this code speaks."""
FIRST_CALL_KIND = 16
METHOD_CHARS_MAX = 128
TEXT_CHARS_MAX = 4096
"""Longest reason or error message; a longer one is cut before it is sent."""
CERTIFICATE_BYTES_MAX = 64 << 10
META_BYTES_MAX = 64 << 10
HEADER_BYTES_MAX = 512
"""What a frame adds to its body and meta at most."""

CallId = Annotated[int, Meta(ge=1, lt=1 << 53)]
Small = Annotated[int, Meta(ge=0, lt=1 << 31)]
Name = Annotated[str, Meta(max_length=METHOD_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Certificate = Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]
MetaBytes = Annotated[bytes, Meta(max_length=META_BYTES_MAX)]


class Hello(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The dialler's first word, once: the versions it speaks and who it is."""

    version_low: Small
    version_high: Small
    certificate: Certificate = b""
    """PEM, leaf first; empty over a local socket and for a machine that has yet to join."""
    process: Name = ""


class Welcome(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The listener's answer: the version chosen, its certificate, and what it expects."""

    version: Small
    certificate: Certificate = b""
    heartbeat_ms: Small = 0
    frame_bytes_max: Small = 0


class Goaway(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """The end of the connection: code 0 asks to finish what is under way and to start nothing new; another code is final."""

    code: Small
    reason: Text = ""


class Ping(Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Are you there?"""


class Pong(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """I am."""


class CastFrame(Struct, frozen=True, array_like=True, gc=False, tag=6):
    """A message without an answer."""

    method: Name
    meta: MetaBytes
    body: bytes


class Request(Struct, frozen=True, array_like=True, gc=False, tag=16):
    """The start of a call (``window`` 0) or of a stream (``window`` bytes of credit for the answers)."""

    id: CallId
    method: Name
    timeout_ms: Small
    """0: no deadline."""
    window: Small
    meta: MetaBytes
    body: bytes


class Reply(Struct, frozen=True, array_like=True, gc=False, tag=17):
    """The answer of a call."""

    id: CallId
    body: bytes


class ErrorFrame(Struct, frozen=True, array_like=True, gc=False, tag=18):
    """The end of a call or a stream that failed."""

    id: CallId
    code: Small
    message: Text
    details: Details = NO_DETAILS


class Item(Struct, frozen=True, array_like=True, gc=False, tag=19):
    """One item of a stream."""

    id: CallId
    body: bytes


class End(Struct, frozen=True, array_like=True, gc=False, tag=20):
    """The stream is over."""

    id: CallId


class Credit(Struct, frozen=True, array_like=True, gc=False, tag=21):
    """The receiver of a stream has room for this many bytes more."""

    id: CallId
    credit: Small


class Cancel(Struct, frozen=True, array_like=True, gc=False, tag=22):
    """The caller lost interest; nothing more is sent for this id."""

    id: CallId


Frame = Hello | Welcome | Goaway | Ping | Pong | CastFrame | Request | Reply | ErrorFrame | Item | End | Credit | Cancel


class Unknown(Struct, frozen=True, gc=False):
    """A frame of a kind that this code does not know: from a newer peer. Never sent."""

    kind: int
    id: int
    """The id of the call, or 0."""
