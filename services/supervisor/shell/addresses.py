"""Where this node listens and under which address others reach it."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from services.kit.bus.ports import HostPort, NodePorts, format_address, parse_address
from services.kit.errors import FailedPrecondition

_NOBODY = "192.0.2.1:9"
"""A documentation address (RFC 5737): asking for the way there sends nothing."""
_REASONS = {
    errno.EADDRINUSE: "another process listens there",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EACCES: "this user may not use that port",
}


def check_free(ports: NodePorts) -> None:
    """Raise FailedPrecondition unless this node can listen on all of its three ports."""
    for place in ports:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
            raise FailedPrecondition(
                f"cannot listen on {place}: {reason}; choose another --listen-remote-api (three ports from it on are used)"
            ) from None


def advertised(listen: HostPort, advertise: str, join_addrs: tuple[str, ...]) -> str:
    """Return the address of this node's remote API as others reach it: as told, as listened on, or the way out of this machine."""
    if advertise:
        return advertise
    if not _is_wildcard(listen.host):
        return str(listen)
    return format_address(_outward_address(join_addrs[0] if join_addrs else _NOBODY), listen.port)


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _outward_address(towards: str) -> str:
    """Return this machine's own address on the way to another; the loopback address when there is no way."""
    host, port = parse_address(towards)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
