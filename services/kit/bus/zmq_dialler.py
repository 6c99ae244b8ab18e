"""The dialling side over ZeroMQ: one DEALER socket, one attempt, one connection. Used by ``ZmqBus``.

libzmq's own reconnect is off: it would lose what was sent to the old peer and replay it, stale, to the new one.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import zmq

from services.kit.bus.api import Caller, Limits
from services.kit.bus.dialled import Dialled
from services.kit.bus.zmq_socket import DRAIN_ALL, Context, Drained, Monitor, tune
from services.kit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    SwarmError,
    Unauthenticated,
    Unavailable,
    from_wire,
)
from services.kit.wire import frames
from services.kit.wire.codec import decode_frame, encode_frame

FAREWELL_MS = 200
"""Frames handed to libzmq get this long to leave after the connection was closed here."""
_EVENTS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Keys of an encrypted connection, raw."""

    secret: bytes = field(repr=False)
    public: bytes
    server: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to connect."""

    endpoint: str
    """As libzmq writes it."""
    shown: str
    """As people write it."""
    hello: frames.Hello
    curve: Curve | None
    check: Callable[[bytes], Caller]
    """Returns who the listener is from the certificate in its WELCOME, or raises."""


async def dial(context: Context, attempt: Attempt, limits: Limits, timeout_s: float) -> Dialled:
    """Connect and exchange HELLO and WELCOME; raises a SwarmError and leaves nothing behind."""
    wire = _DealerWire(context, attempt, limits, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await wire.connected()
    except TimeoutError:
        raise DeadlineExceeded(f"{attempt.shown} did not answer within {timeout_s:g} s") from None
    finally:
        wire.close_unless_connected()


class _DealerWire:
    """A DEALER socket, at first on its way to WELCOME, then the link under a ``Dialled``."""

    def __init__(self, context: Context, attempt: Attempt, limits: Limits, timeout_s: float) -> None:
        self._attempt = attempt
        self._limits = limits
        self._connection: Dialled | None = None
        self._welcomed: asyncio.Future[Dialled] = asyncio.get_running_loop().create_future()
        self._socket = context.socket(zmq.DEALER)
        tune(self._socket, frame_bytes_max=limits.frame_bytes_max)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, max(1, int(timeout_s * 1000)))
        if attempt.curve is not None:
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, attempt.curve.server)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, attempt.curve.public)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, attempt.curve.secret)
        self._monitor = Monitor(context, self._socket, _EVENTS, self._on_event)
        self._drained = Drained(self._socket, self._take_one)

    async def connected(self) -> Dialled:
        """Connect, say HELLO and wait for WELCOME."""
        try:
            self._socket.connect(self._attempt.endpoint)
            self.send(encode_frame(self._attempt.hello))
        except zmq.ZMQError as error:
            raise Unavailable(f"{self._attempt.shown} cannot be dialled: {error}") from None
        return await self._welcomed

    def close_unless_connected(self) -> None:
        """Give up, unless a connection came out of it."""
        if self._connection is None:
            self._monitor.close()
            self._drained.close()

    def send(self, data: bytes) -> bool:
        """Hand one frame to libzmq; False when the pipe is full."""
        try:
            self._socket.send(data, zmq.DONTWAIT)
        except zmq.Again:
            return False
        finally:
            self._drained.look_again()
        return True

    def close(self) -> None:
        """Close the socket after what was handed over had a chance to leave."""
        self._monitor.close()
        self._drained.close(linger_ms=FAREWELL_MS)

    def _take_one(self) -> None:
        data = self._socket.recv(zmq.DONTWAIT)
        if self._socket.getsockopt(zmq.RCVMORE):
            while self._socket.getsockopt(zmq.RCVMORE):
                self._socket.recv()
            self._fail(InvalidArgument("a message of several parts"))
        elif self._connection is not None:
            self._connection.feed(data)
        elif not self._welcomed.done():
            self._on_welcome(data)

    def _on_welcome(self, data: bytes) -> None:
        try:
            frame = decode_frame(data)
            if isinstance(frame, frames.Goaway):
                raise from_wire(frame.code, frame.reason)
            if not isinstance(frame, frames.Welcome) or frame.version != frames.VERSION:
                raise InvalidArgument(f"{self._attempt.shown} does not answer HELLO with WELCOME")
            peer = self._attempt.check(frame.certificate)
        except SwarmError as error:
            self._fail(error)
            return
        heartbeat_s = min(self._limits.heartbeat_interval_s, frame.heartbeat_ms / 1000 or math.inf)
        frame_bytes_max = min(self._limits.frame_bytes_max, frame.frame_bytes_max or sys.maxsize)
        limits = replace(self._limits, frame_bytes_max=frame_bytes_max)
        self._connection = Dialled(self, peer=peer, limits=limits, heartbeat_s=heartbeat_s)
        self._welcomed.set_result(self._connection)

    def _on_event(self, event: int, value: int) -> None:
        shown = self._attempt.shown
        match event:
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._fail(Unauthenticated(f"{shown} refuses this node's key"))
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._fail(Unavailable(f"the handshake with {shown} failed: its key may have changed"))
            case _ if self._connection is None and not self._welcomed.done():
                self._drained.drain(DRAIN_ALL)
                self._fail(Unavailable(f"nobody listens on {shown}"))
            case _:
                self._drained.drain(DRAIN_ALL)
                self._fail(Unavailable(f"the connection to {shown} was closed by the other end"))

    def _fail(self, error: SwarmError) -> None:
        if self._connection is not None:
            if self._connection.gone is None:
                self.close()
                self._connection.lose(error)
        elif not self._welcomed.done():
            self._welcomed.set_exception(error)
