"""Connections of published ports: accepted, given a task, tried again elsewhere while no byte was sent, and counted.

Owned by a worker. What must stay true: a connection is counted at exactly one task from the moment it is chosen until both sockets
are closed; a client is given up only when three tasks have failed it or none is left; beyond ``connections_max`` nothing more is
accepted (newcomers wait in the kernel's queue) until one ends.
"""

from __future__ import annotations

import errno
import os
import socket

from services.gateway.core.balance import Dice, Pool, Target
from services.gateway.plane.loop import BOTH_ON_EDGE, GONE, READ, WRITE, Loop
from services.gateway.plane.relay import Shared, Side

CONNECT_TIMEOUT_S = 1.0
TASKS_TRIED_MAX = 3
ACCEPTS_PER_TURN = 64
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""An idle connection is never dropped in silence: only when the other end has not answered for two minutes."""
_OUR_OWN_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_NONBLOCKING = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice a dead peer and send small writes at once; accepted sockets inherit it from their listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Carrier:
    """All ports and connections of a worker."""

    def __init__(self, loop: Loop, dice: Dice, connections_max: int) -> None:
        self.loop = loop
        self.shared = Shared(loop)
        self.ports: dict[str, Port] = {}
        self.flows: set[Flow] = set()
        self.accepted = 0
        self.refused = 0
        self.retried = 0
        self.connections_max = connections_max
        self._dice = dice
        self._pools: dict[str, Pool] = {}
        self._left: list[Target] = []
        self._dialling: dict[Flow, float] = {}
        self._sweeping = False
        self._paused = False

    def route(self, key: str, targets: list[Target]) -> None:
        """Send new connections of this port to these tasks; connections to tasks that are no longer named go on."""
        for target in self.pool(key).replace(targets):
            if target.open:
                target.draining = True
                self._left.append(target)

    def unroute(self, key: str) -> None:
        """Forget the tasks of this port."""
        self.route(key, [])
        if key not in self.ports:
            del self._pools[key]

    def routed(self) -> list[str]:
        """Return the ports that have a route."""
        return list(self._pools)

    def pool(self, key: str) -> Pool:
        """Return the tasks of a port; a port without a route has none."""
        if key not in self._pools:
            self._pools[key] = Pool(self._dice)
        return self._pools[key]

    def listen(self, key: str, sock: socket.socket) -> None:
        """Accept on this socket instead of the one before, if any."""
        self.unlisten(key)
        self.ports[key] = Port(self, self.pool(key), sock)
        if self._paused:
            self.ports[key].pause()

    def unlisten(self, key: str) -> None:
        """Stop accepting on a port; its connections go on."""
        port = self.ports.pop(key, None)
        if port is not None:
            port.close()
        if not self.pool(key).targets:
            del self._pools[key]

    def draining(self) -> dict[str, int]:
        """Return the open connections of each task that gets no new ones."""
        self._left = [target for target in self._left if target.open]
        counts: dict[str, int] = {}
        for target in self.targets():
            if target.draining:
                counts[target.task_id] = counts.get(target.task_id, 0) + target.open
        return counts

    def targets(self) -> list[Target]:
        """Return every task that is routed to or still has connections."""
        return [target for pool in self._pools.values() for target in pool.targets.values()] + self._left

    @property
    def is_full(self) -> bool:
        """True while no more connections are accepted."""
        return len(self.flows) >= self.connections_max

    def pause(self) -> None:
        """Accept nothing until a connection has ended."""
        self._paused = True
        for port in self.ports.values():
            port.pause()

    def resume(self) -> None:
        """Accept again; idempotent."""
        if self._paused:
            self._paused = False
            for port in self.ports.values():
                port.resume()

    def ended(self, flow: Flow) -> None:
        """Take note of a connection's end."""
        self.flows.discard(flow)
        self.resume()

    def expect(self, flow: Flow) -> None:
        """Fail this attempt unless ``met`` is called before the time for connecting is over."""
        self._dialling[flow] = self.loop.now + CONNECT_TIMEOUT_S
        if not self._sweeping:
            self._sweeping = True
            self.loop.later(CONNECT_TIMEOUT_S, self._sweep)

    def met(self, flow: Flow) -> None:
        """Stop waiting for an attempt; idempotent."""
        self._dialling.pop(flow, None)

    def _sweep(self) -> None:
        dialling = self._dialling
        while dialling:
            flow, deadline = next(iter(dialling.items()))  # all wait equally long: the first is the oldest
            if deadline > self.loop.now:
                self.loop.later(deadline - self.loop.now, self._sweep)
                return
            del dialling[flow]
            flow.time_out()
        self._sweeping = False


class Port:
    """A listening socket of a published port."""

    __slots__ = ("_carrier", "_sock", "pool")

    def __init__(self, carrier: Carrier, pool: Pool, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._carrier = carrier
        self._sock = sock
        self.pool = pool
        carrier.loop.watch(sock.fileno(), self.on_event, READ)

    @property
    def sock(self) -> socket.socket:
        """The listener, for handing out copies."""
        return self._sock

    def on_event(self, events: int) -> None:
        """Accept what waits, a bounded number at a time."""
        del events
        for _ in range(ACCEPTS_PER_TURN):
            if not self.accept():
                return

    def accept(self) -> bool:
        """Take one connection from the kernel's queue; False when there is none, or no room for it."""
        carrier = self._carrier
        if carrier.is_full:
            carrier.pause()
            return False
        try:
            client, _ = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _OUR_OWN_FAULT:
                return True  # this one connection was gone already
            carrier.pause()
            carrier.loop.later(CONNECT_TIMEOUT_S, carrier.resume)
            return False
        client.setblocking(False)
        carrier.accepted += 1
        Flow(carrier, self.pool, client).dial()
        return True

    def pause(self) -> None:
        """Leave newcomers in the kernel's queue."""
        self._carrier.loop.unwatch(self._sock.fileno())

    def resume(self) -> None:
        """Accept again."""
        self._carrier.loop.watch(self._sock.fileno(), self.on_event, READ)

    def end(self) -> None:
        """Serve everybody who is in the queue, then listen no more, whoever else has a copy of the socket."""
        while self.accept():
            continue
        self._sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close this copy of the listener."""
        self._carrier.loop.unwatch(self._sock.fileno())
        self._sock.close()


class Flow:
    """One client's connection, from accept to the end of both sockets."""

    __slots__ = ("_carrier", "_client", "_pool", "_target", "_tried", "_upstream", "client_side", "upstream_side")

    def __init__(self, carrier: Carrier, pool: Pool, client: socket.socket) -> None:
        self._carrier = carrier
        self._pool = pool
        self._client = client
        self._upstream: socket.socket | None = None
        self._target: Target | None = None
        self._tried: tuple[Target, ...] = ()
        self.client_side: Side | None = None
        self.upstream_side: Side | None = None
        carrier.flows.add(self)

    @property
    def moved(self) -> int:
        """Bytes that went through, both ways."""
        if self.client_side is None or self.upstream_side is None:
            return 0
        return self.client_side.moved + self.upstream_side.moved

    def dial(self) -> None:
        """Connect to a task that was not tried yet, or give the client up."""
        target = None
        if len(self._tried) < TASKS_TRIED_MAX:
            target = self._pool.choose(self._carrier.loop.now, self._tried)
        if target is None:
            self._give_up()
            return
        self._target = target
        target.open += 1
        target.connections += 1
        try:
            self._connect(target)
        except OSError as error:
            if error.errno in _OUR_OWN_FAULT:
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
        self._pool.succeeded(self._target)
        self._tried = ()
        client_side = self.client_side = Side(self._client, carrier.shared, self)
        upstream_side = self.upstream_side = Side(upstream, carrier.shared, self)
        client_side.peer = upstream_side
        upstream_side.peer = client_side
        carrier.loop.hand_over(upstream.fileno(), upstream_side.on_event)
        carrier.loop.watch(self._client.fileno(), client_side.on_event, BOTH_ON_EDGE)
        upstream_side.on_event(events)

    def _failed(self, *, timed_out: bool) -> None:
        target = self._target
        assert target is not None, "an attempt has a task"
        self._leave_target()
        self._pool.failed(target, self._carrier.loop.now, timed_out=timed_out)
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

    def _give_up(self) -> None:
        self._carrier.refused += 1
        self._carrier.loop.close_later(self._client)
        self._carrier.ended(self)
