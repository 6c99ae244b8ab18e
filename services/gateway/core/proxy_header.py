"""The PROXY header, versions 1 and 2: who a connection's client is, said in front of its first byte.

Read where a trusted balancer stands in front of the swarm, written where a task wants to know. Pure functions on bytes. What must stay
true: a header is read whole or not at all; what is no header is refused, never passed on as data. Source: "The PROXY protocol",
haproxy.org, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

V1 = "v1"
V2 = "v2"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_BYTES_MAX = 107
V2_FIXED_BYTES = 16
HEADER_BYTES_MAX = 2048
"""Version 2 allows more, for extensions that nobody sends."""
_PORT_MAX = 65535
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21


class Address(NamedTuple):
    """Host and port."""

    host: str
    port: int


class Header(NamedTuple):
    """What a header says. ``source`` is None when the sender speaks for itself, as health checks do."""

    length: int
    """Bytes of the header."""
    source: Address | None
    destination: Address | None


class BrokenHeader(Exception):
    """These bytes are not the beginning of a PROXY header."""


def parse(data: bytes) -> Header | None:
    """Return the header at the beginning of these bytes, None when more are needed; raises BrokenHeader."""
    if data[:12] == SIGNATURE[: len(data)]:
        return _parse_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _parse_v1(data)
    raise BrokenHeader("neither version of the header begins like this")


def encode(version: str, source: Address, destination: Address) -> bytes:
    """Return the header for a TCP connection; a mixed pair of addresses is written as version 6."""
    families = {ipaddress.ip_address(address.host).version for address in (source, destination)}
    if len(families) > 1:
        source, destination = _as_v6(source), _as_v6(destination)
    is_v6 = 6 in families
    if version == V1:
        family = "TCP6" if is_v6 else "TCP4"
        return f"PROXY {family} {source.host} {destination.host} {source.port} {destination.port}\r\n".encode()
    body = b"".join(ipaddress.ip_address(address.host).packed for address in (source, destination))
    body += struct.pack("!HH", source.port, destination.port)
    return SIGNATURE + struct.pack("!BBH", _PROXY, _TCP6 if is_v6 else _TCP4, len(body)) + body


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise BrokenHeader("the line does not end")
        return None
    words = data[:end].decode("latin-1").split(" ")
    if words[1:2] == ["UNKNOWN"]:
        return Header(end + 2, None, None)
    if len(words) != 6 or words[1] not in {"TCP4", "TCP6"}:
        raise BrokenHeader("it is not PROXY, family, two addresses and two ports")
    source, destination = (
        _v1_address(words[1], host, port) for host, port in ((words[2], words[4]), (words[3], words[5]))
    )
    return Header(end + 2, source, destination)


def _v1_address(family: str, host: str, port: str) -> Address:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise BrokenHeader("there is no address in it") from None
    if address.version != int(family[-1]):
        raise BrokenHeader("an address is not of the named family")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= _PORT_MAX):
        raise BrokenHeader("there is no port in it")
    return Address(_shown(address), int(port))


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < V2_FIXED_BYTES:
        return None
    command, family, body_bytes = struct.unpack_from("!BBH", data, len(SIGNATURE))
    length = V2_FIXED_BYTES + body_bytes
    if command not in {_LOCAL, _PROXY}:
        raise BrokenHeader("the version or command is unknown")
    if length > HEADER_BYTES_MAX:
        raise BrokenHeader("it is too long")
    if len(data) < length:
        return None
    if command == _LOCAL or family not in {_TCP4, _TCP6}:
        return Header(length, None, None)
    size = 4 if family == _TCP4 else 16
    if body_bytes < 2 * size + 4:
        raise BrokenHeader("the addresses do not fit in")
    hosts = data[V2_FIXED_BYTES : V2_FIXED_BYTES + 2 * size]
    ports = struct.unpack_from("!HH", data, V2_FIXED_BYTES + 2 * size)
    source, destination = (
        Address(_shown(ipaddress.ip_address(packed)), port)
        for packed, port in zip((hosts[:size], hosts[size:]), ports, strict=True)
    )
    return Header(length, source, destination)


def _shown(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return the address for people: a version 4 address in the clothes of version 6 without them."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _as_v6(address: Address) -> Address:
    parsed = ipaddress.ip_address(address.host)
    return Address(f"::ffff:{parsed}", address.port) if parsed.version == 4 else address
