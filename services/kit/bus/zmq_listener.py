"""The answering side over ZeroMQ: one ROUTER socket, many peers. Made by ``ZmqBus``.

A peer's life: accepted (its HELLO is awaited for a while) → admitted by ZAP (the key is proven) → HELLO checked against the proven key →
``Answered`` until the wire is gone. What must stay true: nothing but HELLO is looked at before the check, a frame without a proven
key is never acted on, and routing ids are ours alone (a peer that brings its own is refused).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import zmq

from services.kit.bus import zmq_wire
from services.kit.bus.answered import Answered, drain, is_anonymous
from services.kit.bus.api import Caller, Limits
from services.kit.bus.rpc import Table
from services.kit.bus.zmq_desk import Desk
from services.kit.bus.zmq_socket import DRAIN_ALL, Context, Drained, Monitor, Socket, stop_listening
from services.kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    SwarmError,
    Unauthenticated,
    Unavailable,
)
from services.kit.runtime.log import Log
from services.kit.wire import frames
from services.kit.wire.codec import decode_frame, encode_frame

FAREWELL_S = 0.1
"""A peer that is sent away gets this long to read why before its wire is cut."""
FAREWELL_MS = 200
"""When the listener closes, peers get this long to read what they are sent and to hang up."""
_SRCFD = 2
"""Message property: the descriptor of the connection. Deprecated in libzmq, but the only way to cut one connection."""

_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED

_log = Log("bus")


class _Peer:
    """One connection of the ROUTER."""

    __slots__ = ("descriptor", "end", "listener", "name", "routing_id")

    def __init__(self, listener: ZmqListener, routing_id: bytes, descriptor: int) -> None:
        self.listener = listener
        self.routing_id = routing_id
        self.descriptor = descriptor
        self.name = zmq_wire.peer_name(descriptor)
        self.end: Answered | None = None
        """None before HELLO is accepted and after the end."""

    def send(self, data: bytes) -> bool:
        """Hand one frame to libzmq."""
        return self.listener.send(self, data)

    def close(self) -> None:
        """Cut the wire once the last frame had a chance to leave."""
        self.listener.dismiss(self)


class ZmqListener:
    """One ROUTER socket (see ``api.Listener``)."""

    def __init__(
        self,
        context: Context,
        socket: Socket,
        *,
        endpoint: str,
        desk: Desk,
        table: Table,
        limits: Limits,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self.endpoint = endpoint
        self.on_closed: Callable[[], None] = _nobody_cares
        self._desk = desk
        self._table = table
        self._limits = limits
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._peers: dict[bytes, _Peer] = {}
        self._by_descriptor: dict[int, _Peer] = {}
        self._awaited: dict[int, asyncio.TimerHandle] = {}
        self._ends: set[Answered] = set()
        self._anonymous: set[Answered] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._closing = False
        self._left_alone = asyncio.Event()
        self._unbound = asyncio.Event()
        self._monitor = Monitor(context, socket, _EVENTS, self._on_event)
        self._drained = Drained(socket, self._take_one)

    def revoke(self, public_key: bytes) -> None:
        """Refuse this key from now on and cut its live connections at once."""
        self._desk.revoke(public_key)
        for end in [end for end in self._ends if end.peer.public_key == public_key]:
            end.kill(Unauthenticated("the key is revoked"))

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Stop accepting, let calls finish for a while, close; idempotent."""
        if self._closing:
            return
        self._closing = True
        self._desk.leave()
        await drain(self._ends, drain_s)
        for end in list(self._ends):
            end.kill(Unavailable("the listener was closed"))
        for timer in self._awaited.values():
            timer.cancel()
        await self._until_left_alone()
        await stop_listening(self._socket, self._unbound, linger_ms=FAREWELL_MS)
        self._monitor.close()
        self._drained.close(linger_ms=FAREWELL_MS)
        self.on_closed()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _until_left_alone(self) -> None:
        """Let peers read to the end and hang up: what is still on its way to them is lost when libzmq unbinds, whatever it may linger."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_MS / 1000):
                while self._by_descriptor:
                    self._left_alone.clear()
                    await self._left_alone.wait()

    def send(self, peer: _Peer, data: bytes) -> bool:
        """Hand one frame for a peer to libzmq; False when the peer's pipe is full."""
        try:
            self._socket.send(peer.routing_id, zmq.DONTWAIT | zmq.SNDMORE)
            self._socket.send(data, zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            self._loop.call_soon(self._forget, peer, "the peer is gone")
        finally:
            self._drained.look_again()
        return True

    def dismiss(self, peer: _Peer) -> None:
        """Cut a peer's wire once the last frame had a chance to leave."""
        peer.end = None
        if not self._closing:
            self._loop.call_later(FAREWELL_S, self._cut, peer)

    def _cut(self, peer: _Peer) -> None:
        if self._peers.get(peer.routing_id) is not peer or self._drained.closed:
            return
        self._monitor.catch_up()
        if self._by_descriptor.get(peer.descriptor) is peer:
            zmq_wire.cut(peer.descriptor, peer.name)
            self._drained.look_again()

    def _take_one(self) -> None:
        routing_id = self._socket.recv(zmq.DONTWAIT)
        peer = self._peers.get(routing_id)
        if peer is None:
            first = self._socket.recv(copy=False)
            self._meet(routing_id, first, alone=self._is_last())
            return
        data = self._socket.recv()
        alone = self._is_last()
        if peer.end is None:
            return
        if alone:
            peer.end.feed(data)
        else:
            peer.end.kill(InvalidArgument("a message of several parts"))

    def _is_last(self) -> bool:
        """Tell whether the part just read was the last of its message; the others are thrown away."""
        if not self._socket.getsockopt(zmq.RCVMORE):
            return True
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv()
        return False

    def _meet(self, routing_id: bytes, first: zmq.Frame, *, alone: bool) -> None:
        """Take the first frame of a connection: it must be a HELLO that the desk accepts."""
        self._monitor.catch_up()
        descriptor = _descriptor_of(first)
        if not self._stop_awaiting(descriptor):
            return  # what is left of a connection that is gone; its descriptor may be another's by now
        peer = self._peers[routing_id] = self._by_descriptor[descriptor] = _Peer(self, routing_id, descriptor)
        try:
            if not alone:
                raise InvalidArgument("a message of several parts")
            caller = self._greet(first)
        except SwarmError as error:
            _log.debug("peer refused", listener=self.endpoint, reason=str(error))
            self.send(peer, encode_frame(frames.Goaway(error.code, error.message[: frames.TEXT_CHARS_MAX])))
            self.dismiss(peer)
            return
        self._admit(peer, caller)

    def _greet(self, first: zmq.Frame) -> Caller:
        user_id = _property(first, "User-Id")
        if not user_id or _property(first, "Identity") != "":
            raise Unauthenticated("the connection has no proven key, or names itself")
        hello = decode_frame(first.bytes)
        if not isinstance(hello, frames.Hello):
            raise InvalidArgument("the first frame must be a HELLO")
        if not hello.version_low <= frames.VERSION <= hello.version_high:
            raise FailedPrecondition(f"no common version: this side speaks {frames.VERSION}")
        if self._closing:
            raise Unavailable("the listener is closing")
        caller = self._desk.greet(hello, user_id, _property(first, "Peer-Address") or "")
        if is_anonymous(caller) and len(self._anonymous) >= self._limits.anonymous_peers_max:
            raise ResourceExhausted("too many peers without a certificate")
        return caller

    def _admit(self, peer: _Peer, caller: Caller) -> None:
        limits = self._limits
        welcome = frames.Welcome(
            frames.VERSION, self._desk.certificate(), int(limits.heartbeat_interval_s * 1000), limits.frame_bytes_max
        )
        self.send(peer, encode_frame(welcome))
        end = peer.end = Answered(
            peer, self._table, peer=caller, limits=limits, inside=self._desk.inside, on_broken=self._on_broken
        )
        end.on_lost = lambda error: self._end_lost(end)
        self._ends.add(end)
        if is_anonymous(caller):
            self._anonymous.add(end)

    def _end_lost(self, end: Answered) -> None:
        self._ends.discard(end)
        self._anonymous.discard(end)
        for task in end.tasks():
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _on_event(self, event: int, descriptor: int) -> None:
        if event == zmq.EVENT_CLOSED:
            self._unbound.set()
        elif event == zmq.EVENT_ACCEPTED:
            self._stop_awaiting(descriptor)
            self._awaited[descriptor] = self._loop.call_later(
                self._limits.hello_timeout_s, self._give_up, descriptor, zmq_wire.peer_name(descriptor)
            )
        else:
            self._stop_awaiting(descriptor)
            peer = self._by_descriptor.pop(descriptor, None)
            if peer is not None:
                self._left_alone.set()
                self._loop.call_soon(self._see_off, peer)

    def _see_off(self, peer: _Peer) -> None:
        """Hear what a peer said before its wire was gone, then forget it."""
        if not self._drained.closed:
            self._drained.drain(DRAIN_ALL)
        self._forget(peer, "the connection was closed by the other end")

    def _stop_awaiting(self, descriptor: int) -> bool:
        """Tell whether this connection's HELLO was awaited, and await it no longer."""
        timer = self._awaited.pop(descriptor, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _give_up(self, descriptor: int, name: object) -> None:
        """Cut a connection that never said HELLO."""
        self._monitor.catch_up()
        if self._stop_awaiting(descriptor):
            zmq_wire.cut(descriptor, name)

    def _forget(self, peer: _Peer, reason: str) -> None:
        if self._peers.get(peer.routing_id) is peer:
            del self._peers[peer.routing_id]
        if self._by_descriptor.get(peer.descriptor) is peer:
            del self._by_descriptor[peer.descriptor]
        end, peer.end = peer.end, None
        if end is not None:
            end.lose(Unavailable(reason))


def _property(first: zmq.Frame, name: str) -> str | None:
    """Return a property of a message's connection; None when it is absent or not text."""
    try:
        return str(first.get(name))
    except (zmq.ZMQError, UnicodeDecodeError):
        return None


def _descriptor_of(first: zmq.Frame) -> int:
    descriptor = first.get(_SRCFD)
    assert isinstance(descriptor, int)
    return descriptor


def _nobody_cares() -> None:
    """Nobody asked to be told."""
