"""The join door over ZeroMQ: a ROUTER without security that gives everybody the same answer. Used by ``ZmqBus``.

The whole network may knock, so everything is small: messages, queues, the time that a connection may stay. What must stay true: nothing that
a visitor sends is looked at, and no number of visitors keeps an honest one out (the oldest is shown out first).
"""

from __future__ import annotations

import asyncio

import zmq

from services.kit.bus import zmq_wire
from services.kit.bus.zmq_socket import Context, Drained, Monitor, Socket, stop_listening, tune
from services.kit.errors import DeadlineExceeded, SwarmError, Unavailable

QUESTION_BYTES_MAX = 64
ANSWER_BYTES_MAX = 256 << 10
QUEUE_MESSAGES_MAX = 4
VISIT_S = 5.0
"""A connection is cut after this time, whatever it does."""
VISITORS_MAX = 512
_BACKLOG = 1024
_HANDSHAKE_MS = 5_000
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_QUESTION = b"roots?"


def door_socket(context: Context) -> Socket:
    """Make the door's socket, ready to bind."""
    listening = context.socket(zmq.ROUTER)
    tune(listening, frame_bytes_max=QUESTION_BYTES_MAX)
    options = {
        zmq.MAXMSGSIZE: QUESTION_BYTES_MAX,
        zmq.SNDHWM: QUEUE_MESSAGES_MAX,
        zmq.RCVHWM: QUEUE_MESSAGES_MAX,
        zmq.HANDSHAKE_IVL: _HANDSHAKE_MS,
        zmq.BACKLOG: _BACKLOG,
    }
    for option, value in options.items():
        listening.setsockopt(option, value)
    return listening


class ZmqDoor:
    """An open door (see ``api.Door``)."""

    def __init__(self, context: Context, listening: Socket, endpoint: str, answer: bytes) -> None:
        self.endpoint = endpoint
        self.answer = answer
        self._socket = listening
        self._loop = asyncio.get_running_loop()
        self._visitors: dict[int, tuple[object, asyncio.TimerHandle]] = {}
        """By descriptor, the oldest first: who it is and when it must go."""
        self._closing = False
        self._unbound = asyncio.Event()
        self._monitor = Monitor(context, listening, _EVENTS, self._on_event)
        self._drained = Drained(listening, self._take_one)

    async def close(self) -> None:
        """Close the door; idempotent."""
        if self._closing:
            return
        self._closing = True
        for _, timer in self._visitors.values():
            timer.cancel()
        self._visitors.clear()
        await stop_listening(self._socket, self._unbound, linger_ms=0)
        self._monitor.close()
        self._drained.close()

    def _take_one(self) -> None:
        visitor = self._socket.recv(zmq.DONTWAIT)
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv()
        try:
            self._socket.send_multipart((visitor, self.answer), zmq.DONTWAIT)
        except zmq.Again:
            return  # only this visitor's own pipe is full: it asked more often than it listened

    def _on_event(self, event: int, descriptor: int) -> None:
        self._forget(descriptor)
        if event == zmq.EVENT_CLOSED:
            self._unbound.set()
        elif event == zmq.EVENT_ACCEPTED and not self._closing:
            if len(self._visitors) >= VISITORS_MAX:
                self._show_out(next(iter(self._visitors)))
            timer = self._loop.call_later(VISIT_S, self._visit_over, descriptor)
            self._visitors[descriptor] = (zmq_wire.peer_name(descriptor), timer)

    def _visit_over(self, descriptor: int) -> None:
        self._monitor.catch_up()
        if descriptor in self._visitors:
            self._show_out(descriptor)

    def _show_out(self, descriptor: int) -> None:
        name, timer = self._visitors.pop(descriptor)
        timer.cancel()
        zmq_wire.cut(descriptor, name)

    def _forget(self, descriptor: int) -> None:
        visitor = self._visitors.pop(descriptor, None)
        if visitor is not None:
            visitor[1].cancel()


async def knock(context: Context, endpoint: str, shown: str, timeout_s: float) -> bytes:
    """Return a door's answer; raises Unavailable or DeadlineExceeded."""
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    dealer = context.socket(zmq.DEALER)
    tune(dealer, frame_bytes_max=ANSWER_BYTES_MAX)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.setsockopt(zmq.CONNECT_TIMEOUT, max(1, int(timeout_s * 1000)))

    def take_one() -> None:
        data = dealer.recv(zmq.DONTWAIT)
        if not answer.done():
            answer.set_result(data)

    def on_event(event: int, value: int) -> None:
        drained.drain()
        if not answer.done():
            answer.set_exception(_nobody(shown))

    ends = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    monitor = Monitor(context, dealer, ends, on_event)
    drained = Drained(dealer, take_one)
    try:
        async with asyncio.timeout(timeout_s):
            dealer.connect(endpoint)
            dealer.send(_QUESTION, zmq.DONTWAIT)
            drained.look_again()
            return await answer
    except TimeoutError:
        raise DeadlineExceeded(f"no join door answered on {shown} within {timeout_s:g} s") from None
    except zmq.ZMQError as error:
        raise Unavailable(f"{shown} cannot be dialled: {error}") from None
    finally:
        monitor.close()
        drained.close()


def _nobody(shown: str) -> SwarmError:
    return Unavailable(f"no join door on {shown}")
