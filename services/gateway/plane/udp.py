"""UDP ports: each client gets a task and a socket towards it, for as long as datagrams go either way.

Owned by the carrier. What must stay true: a client's datagrams go to one task while that task takes new work; when it drains or is
gone the next datagram goes to another one at once; at most ``CLIENTS_MAX`` clients of a port are remembered, the quietest is forgotten first.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from typing import TYPE_CHECKING

from services.gateway.core.balance import Target
from services.gateway.plane.loop import READ
from services.gateway.plane.published import Published

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier

IDLE_S = 60.0
CLIENTS_MAX = 10_000
DATAGRAMS_PER_TURN = 64
DATAGRAM_BYTES_MAX = 65535

Source = tuple[str, int] | tuple[str, int, int, int]


class UdpListener:
    """A socket on which a published UDP port is answered."""

    def __init__(self, carrier: Carrier, published: Published, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.published = published
        self._carrier = carrier
        self._sock = sock
        self._exchanges: OrderedDict[Source, Exchange] = OrderedDict()
        self._is_ending = False
        published.listeners.append(self)
        carrier.loop.watch(sock.fileno(), self.on_event, READ)

    @property
    def sock(self) -> socket.socket:
        """The socket, for handing out copies."""
        return self._sock

    def look_again(self) -> None:
        """Nothing is ever paused: what there is no room for is dropped, as UDP allows."""

    def on_event(self, events: int) -> None:
        """Pass on what has come, a bounded number of datagrams at a time."""
        del events
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, source = self._sock.recvfrom(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # an earlier answer met nobody
            self._take(data, source)

    def answer(self, data: bytes, source: Source) -> None:
        """Send a task's datagram to a client; one that the kernel has no room for is lost, as UDP allows."""
        try:
            self._sock.sendto(data, source)
        except OSError:
            self._carrier.lost += 1

    def forget(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if self._exchanges.get(exchange.source) is exchange:
            del self._exchanges[exchange.source]
        self._carrier.ended(exchange)
        if self._is_ending and not self._exchanges:
            self._sock.close()

    def end(self) -> None:
        """Pass on what is in the queue, then only answers."""
        self.on_event(READ)
        self._stop_receiving()

    def close(self) -> None:
        """Leave the port to whoever has a copy of the socket; answers to what was received still go out from here."""
        self._stop_receiving()

    def _stop_receiving(self) -> None:
        self._is_ending = True
        self.published.listeners.remove(self)
        self._carrier.loop.unwatch(self._sock.fileno())
        if not self._exchanges:
            self._sock.close()

    def _take(self, data: bytes, source: Source) -> None:
        exchanges = self._exchanges
        exchange = exchanges.get(source)
        if exchange is not None and not exchange.is_current:
            exchange.close()
            exchange = None
        if exchange is None:
            exchange = self._begin(source)
            if exchange is None:
                return
        else:
            exchanges.move_to_end(source)
        exchange.send(data)

    def _begin(self, source: Source) -> Exchange | None:
        carrier, published = self._carrier, self.published
        target = published.pool.choose(carrier.loop.now, (), source[0])
        if target is None:
            carrier.refused += 1
            return None
        if len(self._exchanges) >= CLIENTS_MAX or carrier.is_full:
            if not self._exchanges:
                carrier.refused += 1
                return None
            next(iter(self._exchanges.values())).close()
        sock = socket.socket(socket.AF_INET6 if ":" in target.addr else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.connect((target.addr, target.port))
        except OSError:
            sock.close()
            published.pool.failed(target, carrier.loop.now, timed_out=False)
            return None
        exchange = self._exchanges[source] = Exchange(self, carrier, target, source, sock)
        carrier.accepted += 1
        carrier.began(exchange)
        return exchange


class Exchange:
    """One client's datagrams, to one task and back."""

    __slots__ = (
        "_carrier",
        "_is_answered",
        "_listener",
        "_sock",
        "is_counted",
        "moved",
        "moved_before",
        "published",
        "quiet_since",
        "source",
        "target",
    )

    def __init__(
        self, listener: UdpListener, carrier: Carrier, target: Target, source: Source, sock: socket.socket
    ) -> None:
        self.published = listener.published
        self.source = source
        self.target = target
        self.is_counted = True
        self.moved = 0
        self.moved_before = -1
        self.quiet_since = 0.0
        self._listener = listener
        self._carrier = carrier
        self._sock = sock
        self._is_answered = False
        target.open += 1
        target.connections += 1
        carrier.loop.watch(sock.fileno(), self.on_event, READ)

    @property
    def idle_s(self) -> float:
        """How long it may be idle."""
        return min(self.published.idle_s or IDLE_S, IDLE_S)

    @property
    def is_current(self) -> bool:
        """False when the task takes no new work: the next datagram goes elsewhere."""
        target = self.target
        return not target.draining and self.published.pool.targets.get(target.task_id) is target

    def send(self, data: bytes) -> None:
        """Send a client's datagram to the task."""
        try:
            self._sock.send(data)
        except BlockingIOError:
            self._carrier.lost += 1
        except OSError:
            self._refused()
        else:
            self.moved += len(data)
            self.target.bytes_in += len(data)

    def on_event(self, events: int) -> None:
        """Send the task's datagrams to the client."""
        del events
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data = self._sock.recv(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                self._refused()
                return
            if not self._is_answered:
                self._is_answered = True
                self.published.pool.succeeded(self.target)
            self.moved += len(data)
            self.target.bytes_out += len(data)
            self._listener.answer(data, self.source)

    def abort(self) -> None:
        """End it now."""
        self.close()

    def close(self) -> None:
        """End it now."""
        self._carrier.loop.close_later(self._sock)
        self.target.open -= 1
        self._listener.forget(self)

    def _refused(self) -> None:
        """Nobody listens there: the client's next datagram goes to another task."""
        self.published.pool.failed(self.target, self._carrier.loop.now, timed_out=True)
        self.close()
