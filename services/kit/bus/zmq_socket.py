"""ZeroMQ sockets on an asyncio loop: options, readiness, connection events. Used by the other ``zmq_*`` files only.

``zmq.FD`` is edge-triggered: it tells once that something happened, and any call on the socket may swallow that. What must stay true:
every socket is read until it says EAGAIN, and looked at again after every send that was not made while reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from itertools import count

import zmq

BUDGET = 64
"""Messages read before others on the loop get their turn."""
DRAIN_ALL = 1 << 20
"""The budget where everything must be read before the next step."""
QUEUE_MESSAGES_MAX = 1000
FRAME_OVERHEAD_BYTES = 64
"""What CURVE adds to a frame, rounded up."""
HANDSHAKE_MS = 30_000
MAX_SOCKETS = 8192
ADDRESS_FREE_WITHIN_S = 2.0
"""libzmq closes a listening socket in its own thread; waited for at most this long."""
ZAP_ENFORCE_DOMAIN = 93
"""Without it a CURVE server without a ZAP handler lets everybody in. Not among pyzmq's constants, but in libzmq since 4.3."""

_EVENT = struct.Struct("=hi")
_monitor_numbers = count(1)

Socket = zmq.Socket[bytes]
Context = zmq.Context[zmq.Socket[bytes]]


class Drained:
    """Reads a socket whenever there is something. ``take_one`` takes one message off the socket with DONTWAIT, or raises zmq.Again."""

    def __init__(self, socket: Socket, take_one: Callable[[], None]) -> None:
        self.socket = socket
        self._take_one = take_one
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._scheduled = False
        self._reading = False
        self._closed = False
        self._loop.add_reader(self._descriptor, self.drain)
        self.look_again()

    @property
    def closed(self) -> bool:
        """Tell whether ``close`` was called."""
        return self._closed

    def look_again(self) -> None:
        """Read soon, whatever the descriptor says."""
        if not (self._scheduled or self._reading or self._closed):
            self._scheduled = True
            self._loop.call_soon(self._look)

    def drain(self, budget: int = BUDGET) -> None:
        """Read until there is nothing more, or the budget is used up."""
        if self._reading:
            return
        self._reading = True
        empty = False
        try:
            for _ in range(budget):
                if self._closed:
                    return
                self._take_one()
        except zmq.Again:
            empty = True
        finally:
            self._reading = False
            if not empty:
                self.look_again()

    def close(self, *, linger_ms: int = 0) -> None:
        """Stop reading and close the socket; idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self.socket.close(linger_ms)

    def _look(self) -> None:
        self._scheduled = False
        self.drain()


class Monitor:
    """Tells what happens to the connections of a socket: ``on_event(event, value)``.

    Its queue has no bound, because a full one would stop libzmq's io thread; it is closed before the watched socket is.
    """

    def __init__(self, context: Context, watched: Socket, events: int, on_event: Callable[[int, int], None]) -> None:
        address = f"inproc://monitor-{next(_monitor_numbers)}"
        watched.monitor(address, events)
        self._watched = watched
        self._on_event = on_event
        self._socket = context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(address)
        self._drained = Drained(self._socket, self._take_one)

    def catch_up(self) -> None:
        """Learn of everything that has happened so far."""
        self._drained.drain(DRAIN_ALL)

    def close(self) -> None:
        """Stop watching; idempotent."""
        if not self._watched.closed:
            self._watched.disable_monitor()
        self._drained.close()

    def _take_one(self) -> None:
        header = self._socket.recv(zmq.DONTWAIT)
        self._socket.recv()
        event, value = _EVENT.unpack(header[:6])
        self._on_event(event, value)


async def stop_listening(socket: Socket, closed: asyncio.Event, *, linger_ms: int) -> None:
    """Unbind and wait until the address is free again (``closed`` is set on EVENT_CLOSED); peers' connections end with it."""
    socket.setsockopt(zmq.LINGER, linger_ms)
    socket.unbind(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ADDRESS_FREE_WITHIN_S):
            await closed.wait()


def new_context() -> Context:
    """Make a context with room for many sockets."""
    context: Context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return context


def tune(socket: Socket, *, frame_bytes_max: int) -> None:
    """Set what every socket needs; options count only when they are set before bind and connect."""
    options = {
        zmq.LINGER: 0,
        zmq.IPV6: 1,
        zmq.MAXMSGSIZE: frame_bytes_max + FRAME_OVERHEAD_BYTES,
        zmq.SNDHWM: QUEUE_MESSAGES_MAX,
        zmq.RCVHWM: QUEUE_MESSAGES_MAX,
        zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 30,
        zmq.TCP_KEEPALIVE_INTVL: 10,
        zmq.TCP_KEEPALIVE_CNT: 3,
        zmq.TCP_MAXRT: 20_000,
    }
    for option, value in options.items():
        socket.setsockopt(option, value)
