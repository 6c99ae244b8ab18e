"""One client's connection, from accept to the end of both sockets.

Made by the carrier. What must stay true: a connection is counted at exactly one task from the moment it is chosen until both sockets
are closed; a client is given up only when three tasks have failed it or none is left; where a PROXY header is expected nothing goes
on before it is whole.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from services.gateway.core import proxy_header
from services.gateway.core.balance import Target
from services.gateway.core.proxy_header import Address, BrokenHeader
from services.gateway.plane.loop import BOTH_ON_EDGE, GONE, WRITE, Timer
from services.gateway.plane.published import OUR_OWN_FAULT, Published
from services.gateway.plane.relay import Side

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier

TASKS_TRIED_MAX = 3
HEADER_TIMEOUT_S = 3.0
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""An idle connection is never dropped in silence: only when the other end has not answered for two minutes."""
_NONBLOCKING = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice a dead peer and send small writes at once; accepted sockets inherit it from their listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Flow:
    """See the module."""

    __slots__ = (
        "_carrier",
        "_client",
        "_header_timer",
        "_source",
        "_target",
        "_tried",
        "_upstream",
        "client_side",
        "moved_before",
        "published",
        "quiet_since",
        "upstream_side",
    )

    def __init__(self, carrier: Carrier, published: Published, client: socket.socket, host: str, port: int) -> None:
        self._carrier = carrier
        self.published = published
        self._client = client
        self._source = Address(host, port)
        self._upstream: socket.socket | None = None
        self._target: Target | None = None
        self._tried: tuple[Target, ...] = ()
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

    def dial(self) -> None:
        """Connect to a task that was not tried yet, or give the client up."""
        target = None
        if len(self._tried) < TASKS_TRIED_MAX:
            target = self.published.pool.choose(self._carrier.loop.now, self._tried, self._source.host)
        if target is None:
            self._give_up()
            return
        self._target = target
        target.open += 1
        target.connections += 1
        try:
            self._connect(target)
        except OSError as error:
            if error.errno in OUR_OWN_FAULT:
                self._leave_target()
                self._give_up()
            else:
                self._failed(timed_out=False)

    def on_dialled(self, events: int) -> None:
        """Take the outcome of an attempt from epoll."""
        if events & GONE and (self._upstream is None or self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._failed(timed_out=False)
        elif events & WRITE:
            self._established(events)

    def time_out(self) -> None:
        """Fail the attempt that is under way."""
        self._failed(timed_out=True)

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
        self._target = self._upstream = self.client_side = self.upstream_side = None
        self._carrier.ended(self)

    def _on_header(self, events: int) -> None:
        """Look at what has come; take the header out once it is whole."""
        del events
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

    def _connect(self, target: Target) -> None:
        family = socket.AF_INET6 if ":" in target.addr else socket.AF_INET
        upstream = self._upstream = socket.socket(family, _NONBLOCKING)
        keep_alive(upstream)
        code = upstream.connect_ex((target.addr, target.port))
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
        self._carrier.loop.watch(upstream.fileno(), self.on_dialled, BOTH_ON_EDGE)
        self._carrier.expect(self)

    def _established(self, events: int) -> None:
        carrier, upstream = self._carrier, self._upstream
        assert upstream is not None, "an attempt has a socket"
        assert self._target is not None, "an attempt has a task"
        carrier.met(self)
        self.published.pool.succeeded(self._target)
        self._tried = ()
        client_side = self.client_side = Side(self._client, carrier.shared, self)
        upstream_side = self.upstream_side = Side(upstream, carrier.shared, self)
        client_side.peer = upstream_side
        upstream_side.peer = client_side
        if self.published.settings.proxy_to != "none":
            client_side.say_first(self._header())
        carrier.loop.hand_over(upstream.fileno(), upstream_side.on_event)
        carrier.loop.watch(self._client.fileno(), client_side.on_event, BOTH_ON_EDGE)
        upstream_side.on_event(events)

    def _header(self) -> bytes:
        host, port = self._client.getsockname()[:2]
        return proxy_header.encode(self.published.settings.proxy_to, self._source, Address(host, port))

    def _failed(self, *, timed_out: bool) -> None:
        target = self._target
        assert target is not None, "an attempt has a task"
        self._leave_target()
        self.published.pool.failed(target, self._carrier.loop.now, timed_out=timed_out)
        self._tried = (*self._tried, target)
        self._carrier.retried += 1
        self.dial()

    def _leave_target(self) -> None:
        if self._target is not None:
            self._target.open -= 1
            self._target = None
        if self._upstream is not None:
            self._carrier.met(self)
            self._carrier.loop.close_later(self._upstream)
            self._upstream = None

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self) -> None:
        self._stop_waiting()
        self._carrier.refused += 1
        self._carrier.loop.close_later(self._client)
        self._carrier.ended(self)
