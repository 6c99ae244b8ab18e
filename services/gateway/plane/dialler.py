"""Towards a task: chosen, dialled directly or through the gateway on its node, and another one tried when that fails.

The base of whatever needs a connection to a task. What must stay true: what is chosen is counted at exactly one task until it is
left; at most ``TASKS_TRIED_MAX`` tasks are tried; an attempt ends within the carrier's time for connecting.
"""

from __future__ import annotations

import errno
import os
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from services.gateway.core.balance import Target
from services.gateway.core.proxy_header import Address
from services.gateway.plane.framed_tls import FramedTls
from services.gateway.plane.loop import BOTH_ON_EDGE, GONE, WRITE
from services.gateway.plane.mesh import TAKEN, Preface, encode_preface
from services.gateway.plane.published import OUR_OWN_FAULT, Published
from services.gateway.plane.relay import READ_OR_GONE

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier

TASKS_TRIED_MAX = 3
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


class Dialler(ABC):
    """See the module. Who derives from it says what happens when there is a connection, and when there is none to be had."""

    __slots__ = (
        "_carrier",
        "_dialled_at",
        "_mesh_step",
        "_only",
        "_source",
        "_target",
        "_tried",
        "_upstream",
        "published",
    )

    def __init__(self, carrier: Carrier, published: Published, source: Address, only: Target | None = None) -> None:
        """``only`` is the one task that will do, where another gateway has chosen."""
        self._carrier = carrier
        self.published = published
        self._source = source
        self._only = only
        self._mesh_step = 0
        self._dialled_at = 0.0
        self._upstream: socket.socket | FramedTls | None = None
        self._target: Target | None = None
        self._tried: tuple[Target, ...] = ()

    @property
    @abstractmethod
    def _asked_at(self) -> Address:
        """The address at which the client asked."""

    @abstractmethod
    def _connected(self, events: int) -> None:
        """Go on: there is a connection. ``events`` is what epoll said of it."""

    @abstractmethod
    def _give_up(self) -> None:
        """Go on without: no task could be reached."""

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
        self._dialled_at = self._carrier.loop.now
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
                self._connected(events)

    def _succeeded(self, target: Target) -> None:
        """Take note that a connection to the task was made."""
        carrier = self._carrier
        carrier.met(self)
        self.published.pool.succeeded(target)
        target.connects.took(carrier.loop.now - self._dialled_at)

    def time_out(self) -> None:
        """Fail the attempt that is under way."""
        self._failed(timed_out=True)

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
            self._connected(READ_OR_GONE)
        else:
            self._failed(timed_out=False)

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
