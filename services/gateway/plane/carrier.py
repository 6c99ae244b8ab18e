"""All published ports and connections of a worker: what leads where, what is open, what waits for an answer, what has gone quiet.

Owned by a worker. What must stay true: beyond ``connections_max`` nothing more is accepted (newcomers wait in the kernel's queue)
until one ends; a connection that has been quiet for its port's idle time is ended at both ends, never dropped in silence.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Protocol

from services.gateway.core.balance import Dice, Pool, Target
from services.gateway.core.proxy_header import Address
from services.gateway.plane.dialler import Dialler
from services.gateway.plane.flow import Flow, refuse
from services.gateway.plane.framed_tls import FramedTls
from services.gateway.plane.loop import Loop
from services.gateway.plane.mesh import MESH, Mesh, MeshListener, Preface
from services.gateway.plane.messages import PortSettings, door_of, route_of
from services.gateway.plane.published import Listener, Published
from services.gateway.plane.relay import Shared
from services.gateway.plane.udp import UdpListener

if TYPE_CHECKING:
    from services.gateway.plane.tls_stream import TlsStream

CONNECT_TIMEOUT_S = 1.0
LOOK_FOR_QUIET_S = 15.0
LOOK_FOR_QUIET_LEAST_S = 0.05


class Carried(Protocol):
    """A connection, or an exchange of datagrams."""

    published: Published
    is_counted: bool
    """It counts towards its port's limit on this node."""
    moved_before: int
    """What ``moved`` was when the carrier looked last."""
    quiet_since: float

    @property
    def moved(self) -> int:
        """Bytes that went through, both ways."""

    @property
    def idle_s(self) -> float:
        """How long it may be idle; 0 means for ever."""

    def close(self) -> None:
        """End it politely."""

    def abort(self) -> None:
        """End it now."""


class Carrier:
    """See the module."""

    def __init__(self, loop: Loop, dice: Dice, connections_max: int) -> None:
        self.loop = loop
        self.shared = Shared(loop)
        self.mesh = Mesh(self)
        self.listeners: dict[str, Listener | UdpListener | MeshListener] = {}
        self.flows: set[Carried] = set()
        self.accepted = 0
        self.refused = 0
        self.retried = 0
        self.lost = 0
        """Datagrams that there was no room for."""
        self.connections_max = connections_max
        self._dice = dice
        self._ports: dict[str, Published] = {}
        self._left: list[Target] = []
        self._dialling: dict[Dialler, float] = {}
        self._sweeping = False
        self._pauses = 0
        self._looking_for_quiet = False

    # -- ports

    def route(self, key: str, targets: list[Target], settings: PortSettings) -> None:
        """Send new connections of this port to these tasks; connections to tasks that are no longer named go on."""
        published = self._published(key)
        published.configure(settings)
        if door_of(key) != key:
            published.certificate = self._certificate(key, settings)
            published.join(self._published(door_of(key)))
        for target in published.pool.replace(targets, self.loop.now, published.rules):
            self._leave(target)

    def unroute(self, key: str) -> None:
        """Forget the tasks of this port."""
        published = self._ports[key]
        for target in published.pool.replace([], self.loop.now, published.rules):
            self._leave(target)
        if door_of(key) == key:
            published.configure(PortSettings())
            self._forget_unused(published)
        else:
            published.leave()
            del self._ports[key]
            self._forget_unused(self._ports[door_of(key)])

    def routed(self) -> list[str]:
        """Return the ports that have a route."""
        return [key for key, published in self._ports.items() if key != MESH and not published.members]

    def listen(self, name: str, sock: socket.socket) -> None:
        """Accept on this socket instead of the one before, if any."""
        self.unlisten(name)
        key = route_of(name)
        kind: type[Listener | UdpListener | MeshListener] = Listener
        if key == MESH:
            kind = MeshListener
        elif sock.type == socket.SOCK_DGRAM:
            kind = UdpListener
        self.listeners[name] = kind(self, self._published(key), sock)

    def unlisten(self, name: str) -> None:
        """Stop accepting on a socket; its connections go on."""
        listener = self.listeners.pop(name, None)
        if listener is None:
            return
        listener.close()
        self._forget_unused(listener.published)

    def end(self, *, listening: bool) -> None:
        """Accept no more: nobody does any more when ``listening`` ends, else others who have copies of the sockets do."""
        for listener in list(self.listeners.values()):
            if listening:
                listener.end()
            else:
                listener.close()
        self.listeners.clear()

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
        return [target for port in self._ports.values() for target in port.pool.targets.values()] + self._left

    def _leave(self, target: Target) -> None:
        """Remember a task that is routed to no more while it has connections."""
        if target.open:
            target.draining = True
            self._left.append(target)

    def _certificate(self, key: str, settings: PortSettings) -> object:
        """Return what TLS shows the clients of a service, None where TLS does not end here or cannot."""
        if not settings.tls_ends:
            return None
        from services.gateway.plane.tls_stream import context_from  # noqa: PLC0415 - loaded where it is needed

        try:
            return context_from(settings.tls_pem, for_http=bool(settings.http_head_bytes_max))
        except OSError as error:
            sys.stderr.write(f"no certificate for {key}: {error}\n")
            return None

    def _forget_unused(self, published: Published) -> None:
        is_used = published.listeners or published.pool.targets or published.members
        if not is_used and self._ports.get(published.key) is published:
            del self._ports[published.key]

    def _published(self, key: str) -> Published:
        """Return a port; one without a route has no tasks."""
        if key not in self._ports:
            self._ports[key] = Published(key, Pool(self._dice))
        return self._ports[key]

    # -- connections

    def admit(self, published: Published, client: socket.socket, host: str, port: int) -> None:
        """Take a new connection."""
        self.accepted += 1
        settings = published.settings
        if settings.is_tls:
            from services.gateway.plane.tls_door import TlsArrival  # noqa: PLC0415 - loaded where it is needed

            arrival = TlsArrival(self, published, client, host, port)
            self.began(arrival)
            arrival.begin()
        elif settings.http_head_bytes_max:
            self.speak_http(published, client, Address(host, port), limits=settings, scheme="http")
        else:
            flow = Flow(self, published, client, host, port)
            self.began(flow)
            flow.begin()

    def speak_http(
        self,
        published: Published,
        client: socket.socket | TlsStream,
        source: Address,
        *,
        limits: PortSettings,
        scheme: str,
    ) -> None:
        """Take a connection whose client is going to speak HTTP."""
        from services.gateway.plane.http_flow import HttpFlow  # noqa: PLC0415 - its parser is loaded where it is needed

        http = HttpFlow(self, published, client, source, limits=limits, scheme=scheme)
        self.began(http)
        http.begin()

    def admit_from_mesh(self, client: FramedTls, preface: Preface) -> None:
        """Take a connection that another gateway has brought here, for one task of this node."""
        published = self._ports.get(preface.key)
        target = None if published is None else published.pool.targets.get(preface.task_id)
        if published is None or target is None or not target.local:
            refuse(client)
            self.refused += 1
            self.loop.close_later(client)
            return
        source, destination = preface.source, preface.destination
        flow = Flow(self, published, client, source.host, source.port, only=target, destination=destination)
        self.began(flow)
        flow.dial()

    def began(self, flow: Carried) -> None:
        """Take note of a connection."""
        self.flows.add(flow)
        if flow.is_counted:
            flow.published.began()
        if len(self.flows) == self.connections_max:
            self._look_again()
        if not self._looking_for_quiet:
            self._looking_for_quiet = True
            self.loop.later(self._until_next_look(), self._look_for_quiet)

    def ended(self, flow: Carried) -> None:
        """Take note of a connection's end."""
        was_full = len(self.flows) >= self.connections_max
        self.flows.discard(flow)
        if flow.is_counted:
            flow.published.ended()
        if was_full:
            self._look_again()

    @property
    def is_full(self) -> bool:
        """True while no more connections are accepted."""
        return self._pauses > 0 or len(self.flows) >= self.connections_max

    def pause(self, for_s: float) -> None:
        """Accept nothing for a while: the machine has no room."""
        self._pauses += 1
        self._look_again()
        self.loop.later(for_s, self._resume)

    def _resume(self) -> None:
        self._pauses -= 1
        self._look_again()

    def _look_again(self) -> None:
        for listener in self.listeners.values():
            listener.look_again()

    # -- waiting

    def expect(self, flow: Dialler) -> None:
        """Fail this attempt unless ``met`` is called before the time for connecting is over."""
        self._dialling[flow] = self.loop.now + CONNECT_TIMEOUT_S
        if not self._sweeping:
            self._sweeping = True
            self.loop.later(CONNECT_TIMEOUT_S, self._sweep)

    def met(self, flow: Dialler) -> None:
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

    def _until_next_look(self) -> float:
        shortest = min((port.idle_s for port in self._ports.values() if port.idle_s), default=LOOK_FOR_QUIET_S)
        return max(LOOK_FOR_QUIET_LEAST_S, min(LOOK_FOR_QUIET_S, shortest / 4))

    def _look_for_quiet(self) -> None:
        """End what has had no byte for its idle time."""
        now = self.loop.now
        for flow in list(self.flows):
            moved = flow.moved
            if moved != flow.moved_before:
                flow.moved_before, flow.quiet_since = moved, now
            elif flow.idle_s and now - flow.quiet_since >= flow.idle_s:
                flow.close()
        self._looking_for_quiet = bool(self.flows)
        if self._looking_for_quiet:
            self.loop.later(self._until_next_look(), self._look_for_quiet)
