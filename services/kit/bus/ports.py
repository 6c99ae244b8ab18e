"""The three TCP ports of a node, and how an address is written. Used by whoever listens, dials or reads ``--listen-remote-api``.

``--listen-remote-api HOST:PORT`` opens: PORT, the remote API (CURVE, gateway); PORT + 1, the join door (no security, one fixed public
answer, gateway); PORT + 2, the raft peers (CURVE, raft process of a manager).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from services.kit.errors import InvalidArgument, Problem

DOOR_OFFSET = 1
RAFT_OFFSET = 2
PORT_MAX = 65535


class HostPort(NamedTuple):
    """One TCP address; an IPv6 host has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_address(self.host, self.port)


class NodePorts(NamedTuple):
    """Where a node listens."""

    remote: HostPort
    door: HostPort
    raft: HostPort


def parse_address(text: str, *, path: str = "address") -> HostPort:
    """Return host and port of ``host:port`` or ``[v6]:port``; raises InvalidArgument naming ``path``."""
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host:
        raise _junk(path, text, "is not host:port")
    if bracketed or ":" in host:
        _check_v6(path, text, host, bracketed=bracketed)
    elif not all(c.isascii() and (c.isalnum() or c in "-._") for c in host):
        raise _junk(path, text, "has a host with characters that no host name has")
    if not port_text.isascii() or not port_text.isdigit() or int(port_text[:6]) > PORT_MAX:
        raise _junk(path, text, f"has a port that is not a number from 0 to {PORT_MAX}")
    return HostPort(host, int(port_text))


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def node_ports(text: str, *, path: str = "listen-remote-api") -> NodePorts:
    """Return the three addresses that hang on a remote API address; raises InvalidArgument."""
    host, port = parse_address(text, path=path)
    if not 0 < port <= PORT_MAX - RAFT_OFFSET:
        raise _junk(
            path, text, f"needs a port from 1 to {PORT_MAX - RAFT_OFFSET}: the two ports after it are used as well"
        )
    return NodePorts(HostPort(host, port), HostPort(host, port + DOOR_OFFSET), HostPort(host, port + RAFT_OFFSET))


def _check_v6(path: str, text: str, host: str, *, bracketed: bool) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise _junk(path, text, "has brackets or colons, but no IPv6 address in them") from None
    if not bracketed:
        raise _junk(path, text, "needs brackets around the IPv6 address")


def _junk(path: str, text: str, reason: str) -> InvalidArgument:
    return InvalidArgument.of(
        (Problem(path=path, reason=reason, value=text[:80], hint="write it like 10.0.0.5:4242 or [fd00::5]:4242"),)
    )
