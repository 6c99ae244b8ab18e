"""A published port as a worker knows it: its tasks and settings, and the sockets on which it is answered.

Owned by the carrier. A port that services share is a door: it has no tasks of its own but members, one per service, that clients name. What
must stay true: a listener is watched exactly while the worker has room, the port has room, and it is open; newcomers wait in the kernel's
queue meanwhile; connections count at the door, whoever's they are.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Protocol

from services.gateway.core.balance import Pool, Rules
from services.gateway.core.switchboard import Switchboard
from services.gateway.plane.loop import READ, Loop
from services.gateway.plane.messages import PortSettings

ACCEPTS_PER_TURN = 64
PAUSE_S = 1.0
OUR_OWN_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors that say nothing about the task or the client."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Accepting(Protocol):
    """Who is given new connections."""

    loop: Loop

    @property
    def is_full(self) -> bool:
        """No more for now."""

    def pause(self, for_s: float) -> None:
        """Accept nothing for this time."""

    def admit(self, published: Published, client: socket.socket, host: str, port: int) -> None:
        """Take a new connection."""


class Listening(Protocol):
    """A socket on which a port is answered."""

    def look_again(self) -> None:
        """Find out whether it may accept."""


class Published:
    """A published port."""

    __slots__ = (
        "_trusted",
        "certificate",
        "door",
        "idle_s",
        "key",
        "listeners",
        "members",
        "open",
        "pool",
        "settings",
        "switchboard",
    )

    def __init__(self, key: str, pool: Pool) -> None:
        self.key = key
        self.pool = pool
        self.settings = PortSettings()
        self.listeners: list[Listening] = []
        self.open = 0
        """Connections that it has now."""
        self.idle_s = 0.0
        self.door: Published | None = None
        """The port that it is a part of."""
        self.members: dict[str, Published] = {}
        self.switchboard: Switchboard[Published] = Switchboard()
        """Which member is meant."""
        self.certificate: object = None
        """What TLS shows clients of a member, once there is something."""
        self._trusted: tuple[Network, ...] = ()

    def join(self, door: Published) -> None:
        """Become a part of a port, or tell it of new settings."""
        self.door = door
        door.members[self.key] = self
        door.look_at_members()

    def leave(self) -> None:
        """Be no part of a port any more."""
        if self.door is not None:
            del self.door.members[self.key]
            self.door.look_at_members()

    def look_at_members(self) -> None:
        """Learn who is meant by what; what is decided before a client says whom it means, all members agree on."""
        self.switchboard = Switchboard()
        for key in sorted(self.members):
            member = self.members[key]
            self.switchboard.add(member.settings.hosts, member.settings.paths, member)
        if self.members:
            self.configure(self.members[min(self.members)].settings)

    def configure(self, settings: PortSettings) -> None:
        """Take new settings; they hold for new connections, the idle time for all."""
        self.settings = settings
        self._trusted = tuple(ipaddress.ip_network(network) for network in settings.proxy_from)
        self.idle_s = settings.idle_timeout_s
        self.look_again()

    @property
    def rules(self) -> Rules:
        """How it chooses."""
        settings = self.settings
        return Rules(settings.algorithm, settings.slow_start_s, settings.local_first)

    @property
    def is_full(self) -> bool:
        """True while it may have no more connections."""
        return 0 < self.settings.connections_max <= self.open

    def expects_header(self, host: str) -> bool:
        """Tell whether a connection from there begins with a PROXY header."""
        if not self._trusted:
            return False
        address = ipaddress.ip_address(host)
        return any(address.version == network.version and address in network for network in self._trusted)

    def began(self) -> None:
        """A connection more."""
        if self.door is not None:
            self.door.began()
            return
        self.open += 1
        if self.is_full:
            self.look_again()

    def ended(self) -> None:
        """A connection less."""
        if self.door is not None:
            self.door.ended()
            return
        was_full = self.is_full
        self.open -= 1
        if was_full:
            self.look_again()

    def look_again(self) -> None:
        """Have every listener find out whether it may accept."""
        for listener in self.listeners:
            listener.look_again()


class Listener:
    """A socket on which a published TCP port is answered."""

    __slots__ = ("_carrier", "_is_watched", "_sock", "published")

    def __init__(self, carrier: Accepting, published: Published, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._carrier = carrier
        self._sock = sock
        self._is_watched = False
        self.published = published
        published.listeners.append(self)
        self.look_again()

    @property
    def sock(self) -> socket.socket:
        """The socket, for handing out copies."""
        return self._sock

    def look_again(self) -> None:
        """Accept exactly while there is room; idempotent."""
        wanted = not self._carrier.is_full and not self.published.is_full
        if wanted and not self._is_watched:
            self._carrier.loop.watch(self._sock.fileno(), self.on_event, READ)
        elif self._is_watched and not wanted:
            self._carrier.loop.unwatch(self._sock.fileno())
        self._is_watched = wanted

    def on_event(self, events: int) -> None:
        """Accept what waits, a bounded number at a time."""
        del events
        accept = self._sock.accept
        carrier, published = self._carrier, self.published
        for _ in range(ACCEPTS_PER_TURN):
            if not self._is_watched or not _accept(accept, carrier, published):
                return

    def end(self) -> None:
        """Serve everybody who is in the queue, then listen no more, whoever else has a copy of the socket."""
        while not self._carrier.is_full and _accept(self._sock.accept, self._carrier, self.published):
            continue
        self._sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close this copy of the socket."""
        self.published.listeners.remove(self)
        self._carrier.loop.unwatch(self._sock.fileno())
        self._is_watched = False
        self._sock.close()


def _accept(
    accept: Callable[[], tuple[socket.socket, tuple[str, int]]], carrier: Accepting, published: Published
) -> bool:
    """Take one connection from the kernel's queue; False when there is none, or no room for it."""
    try:
        client, address = accept()
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in OUR_OWN_FAULT:
            return True  # this one connection was gone already
        carrier.pause(PAUSE_S)
        return False
    client.setblocking(False)
    host = address[0]
    carrier.admit(published, client, host.removeprefix("::ffff:") if "." in host else host, address[1])
    return True
