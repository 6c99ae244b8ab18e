"""One client's connection, from accept to the end of both sockets.

Made by the carrier. What must stay true: a connection is counted at exactly one task from the moment it is chosen until both sockets
are closed; a client is given up only when three tasks have failed it or none is left; where a PROXY header is expected nothing goes
on before it is whole.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from services.gateway.core import proxy_header
from services.gateway.core.balance import Target
from services.gateway.core.proxy_header import Address, BrokenHeader
from services.gateway.plane.dialler import Dialler
from services.gateway.plane.framed_tls import FramedTls
from services.gateway.plane.loop import BOTH_ON_EDGE, Timer
from services.gateway.plane.mesh import REFUSED, TAKEN
from services.gateway.plane.published import Published
from services.gateway.plane.relay import Side

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier
    from services.gateway.plane.tls_stream import TlsStream

HEADER_TIMEOUT_S = 3.0


def refuse(client: FramedTls) -> None:
    """Tell a gateway that its connection is not taken, if that can be said without waiting."""
    try:
        client.send(REFUSED)
    except OSError:
        return  # it finds out when the connection is closed


class Flow(Dialler):
    """See the module."""

    __slots__ = (
        "_client",
        "_destination",
        "_header_timer",
        "client_side",
        "is_counted",
        "moved_before",
        "quiet_since",
        "upstream_side",
    )

    def __init__(
        self,
        carrier: Carrier,
        published: Published,
        client: socket.socket | FramedTls | TlsStream,
        host: str,
        port: int,
        *,
        only: Target | None = None,
        destination: Address | None = None,
    ) -> None:
        """A client that another gateway brought comes with the task that it is for, and the address that it asked at."""
        super().__init__(carrier, published, Address(host, port), only)
        self._client = client
        self._destination = destination
        self.is_counted = only is None
        self._header_timer: Timer | None = None
        self.client_side: Side | None = None
        self.upstream_side: Side | None = None
        self.moved_before = -1
        """What ``moved`` was when the carrier looked last."""
        self.quiet_since = 0.0

    @property
    def moved(self) -> int:
        """Bytes that went through, both ways."""
        if self.client_side is None or self.upstream_side is None:
            return 0
        return self.client_side.moved + self.upstream_side.moved

    @property
    def idle_s(self) -> float:
        """How long it may be idle; 0 means for ever."""
        return self.published.idle_s

    def begin(self) -> None:
        """Go and find a task, or wait for the header first."""
        if not self.published.expects_header(self._source.host):
            self.dial()
            return
        loop = self._carrier.loop
        self._header_timer = loop.later(HEADER_TIMEOUT_S, self._give_up)
        loop.watch(self._client.fileno(), self._on_header, BOTH_ON_EDGE)

    def abort(self) -> None:
        """End it now."""
        if self.client_side is not None:
            self.client_side.abort()
        else:
            self._leave_target()
            self._give_up()

    def close(self) -> None:
        """End it politely now."""
        if self.client_side is not None:
            self.client_side.finish()

    def over(self) -> None:
        """Both sockets are closed."""
        target = self._target
        assert target is not None, "an established connection has a task"
        assert self.client_side is not None, "an established connection has two sides"
        assert self.upstream_side is not None, "an established connection has two sides"
        target.open -= 1
        target.bytes_in += self.client_side.moved
        target.bytes_out += self.upstream_side.moved
        if isinstance(self._upstream, FramedTls):
            self._carrier.mesh.remember(target, self._upstream)
        self._target = self._upstream = self.client_side = self.upstream_side = None
        self._carrier.ended(self)

    def _on_header(self, events: int) -> None:
        """Look at what has come; take the header out once it is whole."""
        del events
        assert isinstance(self._client, socket.socket), "other gateways send no such header"
        try:
            data = self._client.recv(proxy_header.HEADER_BYTES_MAX, socket.MSG_PEEK)
            header = proxy_header.parse(data) if data else None
            if data and header is None:
                return
        except BlockingIOError:
            return
        except (OSError, BrokenHeader):
            header = None
        if header is None:
            self._give_up()
            return
        self._client.recv(header.length)
        self._source = header.source or self._source
        self._stop_waiting()
        self._carrier.loop.unwatch(self._client.fileno())
        self.dial()

    def _connected(self, events: int) -> None:
        carrier, upstream = self._carrier, self._upstream
        assert upstream is not None, "an attempt has a socket"
        assert self._target is not None, "an attempt has a task"
        self._succeeded(self._target)
        self._tried = ()
        client = self._client
        is_raw = isinstance(client, socket.socket) and isinstance(upstream, socket.socket)
        client_side = self.client_side = Side(client, carrier.shared, self, is_raw=is_raw)
        upstream_side = self.upstream_side = Side(upstream, carrier.shared, self, is_raw=is_raw)
        client_side.peer = upstream_side
        upstream_side.peer = client_side
        if self.published.settings.proxy_to != "none" and isinstance(upstream, socket.socket):
            client_side.say_first(self._header())
        if self._only is not None:
            upstream_side.say_first(TAKEN)
        carrier.loop.hand_over(upstream.fileno(), upstream_side.on_event)
        carrier.loop.watch(client.fileno(), client_side.on_event, BOTH_ON_EDGE)
        upstream_side.on_event(events)
        if not is_raw:
            client_side.pump()  # what TLS has read already makes no event

    @property
    def _asked_at(self) -> Address:
        """Return the address at which the client asked."""
        if self._destination is not None:
            return self._destination
        host, port = self._client.getsockname()[:2]
        return Address(host, port)

    def _header(self) -> bytes:
        return proxy_header.encode(self.published.settings.proxy_to, self._source, self._asked_at)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self) -> None:
        self._stop_waiting()
        if isinstance(self._client, FramedTls):
            refuse(self._client)
        self._carrier.refused += 1
        self._carrier.loop.close_later(self._client)
        self._carrier.ended(self)
