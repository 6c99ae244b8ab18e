"""Where a published port is answered on this node, and the sockets for it. Used by the keeper of the data plane."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import NamedTuple

from services.gateway.plane.dialler import keep_alive
from services.kit.messages.routes import Route
from services.kit.model.states import Protocol

BACKLOG = 4096
EVERYWHERE = "0.0.0.0"  # noqa: S104 - published ports are meant for everybody unless the operator says otherwise
EVERYWHERE_V6 = "::"
NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""The node has no such address, or no IPv6 at all."""


class Place(NamedTuple):
    """An address of a port."""

    host: str
    is_optional: bool
    """A node without this address is none the worse."""

    def name(self, key: str) -> str:
        """Return the name of the listener there."""
        return f"{key}@{self.host}"


def places(route: Route, host: str, node_id: str) -> Sequence[Place]:
    """Return where this node answers on a port; ``host`` is for ports without addresses of their own."""
    if route.nodes is not None and node_id not in route.nodes:
        return ()
    if route.ingress.addresses:
        return [Place(address, True) for address in route.ingress.addresses]
    if host in {EVERYWHERE, EVERYWHERE_V6}:
        return (Place(EVERYWHERE, False), Place(EVERYWHERE_V6, True))
    return (Place(host, False),)


def listen(host: str, port: int, protocol: Protocol) -> socket.socket:
    """Return a socket that listens there, beside others of ours that do; raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
    listener = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == socket.SOCK_STREAM:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keep_alive(listener)
        listener.bind((host, port))
        if kind == socket.SOCK_STREAM:
            listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
