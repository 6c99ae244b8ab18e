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
from services.gateway.plane.framed_tls import FramedTls
from services.gateway.plane.loop import BOTH_ON_EDGE, GONE, WRITE, Timer
from services.gateway.plane.mesh import REFUSED, TAKEN, Preface, encode_preface
from services.gateway.plane.published import OUR_OWN_FAULT, Published
from services.gateway.plane.relay import READ_OR_GONE, Side

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier

TASKS_TRIED_MAX = 3
HEADER_TIMEOUT_S = 3.0
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""An idle connection is never dropped in silence: only when the other end has not answered for two minutes."""
_SHAKE_HANDS, _SAY, _HEAR = 1, 2, 3
_NONBLOCKING = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice a dead peer and send small writes at once; accepted sockets inherit it from their listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def refuse(client: FramedTls) -> None:
    """Tell a gateway that its connection is not taken, if that can be said without waiting."""
    try:
        client.send(REFUSED)
    except OSError:
        return  # it finds out when the connection is closed


class Flow:
    """See the module."""

    __slots__ = (
        "_carrier",
        "_client",
        "_destination",
        "_header_timer",
        "_mesh_step",
        "_only",
        "_source",
        "_target",
        "_tried",
        "_upstream",
        "client_side",
        "is_counted",
        "moved_before",
        "published",
        "quiet_since",
        "upstream_side",
    )

    def __init__(
        self,
        carrier: Carrier,
        published: Published,
        client: socket.socket | FramedTls,
        host: str,
        port: int,
        *,
        only: Target | None = None,
        destination: Address | None = None,
    ) -> None:
        """A client that another gateway brought comes with the task that it is for, and the address that it asked at."""
        self._carrier = carrier
        self.published = published
        self._client = client
        self._source = Address(host, port)
        self._only = only
        self._destination = destination
        self._mesh_step = 0
        self.is_counted = only is None
        self._upstream: socket.socket | FramedTls | None = None
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
        if self._only is not None:
            target = None if self._tried else self._only
        elif len(self._tried) < TASKS_TRIED_MAX:
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
        upstream = self._upstream
        assert isinstance(upstream, socket.socket), "an attempt begins with a plain socket"
        assert self._target is not None, "an attempt has a task"
        if events & GONE and upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._failed(timed_out=False)
        elif events & WRITE:
            if self._target.via:
                self._call_gateway(upstream, self._target)
            else:
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

    def _connect(self, target: Target) -> None:
        host, port = target.addr, target.port
        if target.via:
            host, _, number = target.via.rpartition(":")
            host, port = host.strip("[]"), int(number)
        upstream = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, _NONBLOCKING)
        self._upstream = upstream
        keep_alive(upstream)
        code = upstream.connect_ex((host, port))
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
        self._carrier.loop.watch(upstream.fileno(), self.on_dialled, BOTH_ON_EDGE)
        self._carrier.expect(self)

    def _call_gateway(self, upstream: socket.socket, target: Target) -> None:
        """Begin TLS with the gateway on the task's node."""
        try:
            self._upstream = self._carrier.mesh.call(upstream, target)
        except (OSError, ValueError):
            self._failed(timed_out=False)
            return
        self._mesh_step = _SHAKE_HANDS
        self._carrier.loop.hand_over(self._upstream.fileno(), self._on_gateway)
        self._on_gateway(0)

    def _on_gateway(self, events: int) -> None:
        """Shake hands, say what this is about, hear whether it is taken."""
        del events
        tls, target = self._upstream, self._target
        assert isinstance(tls, FramedTls), "there is TLS"
        assert target is not None, "an attempt has a task"
        answer = bytearray(1)
        try:
            if self._mesh_step == _SHAKE_HANDS:
                tls.handshake()
                self._mesh_step = _SAY
            if self._mesh_step == _SAY:
                preface = Preface(self.published.key, target.task_id, self._source, self._asked_at)
                tls.send(encode_preface(preface))
                self._mesh_step = _HEAR
            tls.recv_into(answer)
        except BlockingIOError:
            return
        except OSError:
            self._failed(timed_out=False)
            return
        if answer == TAKEN:
            self._established(READ_OR_GONE)
        else:
            self._failed(timed_out=False)

    def _established(self, events: int) -> None:
        carrier, upstream = self._carrier, self._upstream
        assert upstream is not None, "an attempt has a socket"
        assert self._target is not None, "an attempt has a task"
        carrier.met(self)
        self.published.pool.succeeded(self._target)
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
        if isinstance(self._client, FramedTls):
            refuse(self._client)
        self._carrier.refused += 1
        self._carrier.loop.close_later(self._client)
        self._carrier.ended(self)
