"""The zone ``swarm.``: service names answered from the route table. Pure functions on the bytes of a query.

``web.swarm`` and ``tasks.web.swarm`` have the addresses of all tasks that take connections, ``<task>.tasks.web.swarm`` that of one, and
``_http._tcp.web.swarm`` (by the published port's number: ``_8080._tcp``) their ports as SRV. What must stay true: a name that exists without
such a record is NODATA, not NXDOMAIN; what is not of this zone is refused; an answer never exceeds what the asker takes, but says
that it was cut. Sources: RFC 1035, 2308, 2782, 6891.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from services.kit.messages.routes import Backend, Route

ZONE = ("swarm",)
TTL_S = 2
NEGATIVE_TTL_S = 1
PLAIN_BYTES_MAX = 512
EDNS_BYTES_MAX = 1232
"""Fits into one packet on any road."""
QUERY_BYTES_MAX = 512
LABELS_MAX = 32
_HEADER = struct.Struct("!6H")
_A, _SOA, _AAAA, _SRV, _OPT, _ANY, _IN = 1, 6, 28, 33, 41, 255, 1
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP, _REFUSED = 0, 1, 3, 4, 5
_QR, _AA, _TC, _RD = 0x8000, 0x0400, 0x0200, 0x0100
_OPCODE = 0x7800

Shuffle = Callable[[list[Backend]], None]
Names = tuple[str, ...]


class Question(NamedTuple):
    """What is asked. ``name`` is in lower case, from the left."""

    number: int
    flags: int
    name: Names
    kind: int
    klass: int
    raw: bytes
    """The question as it came, for the answer."""
    bytes_max: int
    has_edns: bool


class BrokenQuery(Exception):
    """These bytes ask nothing that can be answered."""


def answer(query: bytes, zone: Zone, shuffle: Shuffle, *, is_stream: bool = False) -> bytes | None:
    """Return the answer to a query, None to one that deserves none."""
    if len(query) < _HEADER.size or struct.unpack_from("!H", query, 2)[0] & _QR:
        return None
    try:
        question = _parse(query)
    except BrokenQuery:
        number, flags = struct.unpack_from("!HH", query)
        return _HEADER.pack(number, _QR | (flags & (_OPCODE | _RD)) | _FORMERR, 0, 0, 0, 0)
    if question.flags & _OPCODE:
        return _reply(question, _NOTIMP, ())
    if question.klass not in {_IN, _ANY} or question.name[-len(ZONE) :] != ZONE:
        return _reply(question, _REFUSED, ())
    found = zone.find(question.name[: -len(ZONE)])
    if found is None:
        return _reply(question, _NXDOMAIN, (), is_authoritative=True)
    backends = list(found.backends)
    shuffle(backends)
    records = list(_records(question, found, backends))
    limit = 65535 if is_stream else question.bytes_max
    reply = _reply(question, _NOERROR, records, is_authoritative=True)
    if len(reply) <= limit:
        return reply
    return _reply(question, _NOERROR, (), is_authoritative=True, is_cut=True)


class Found(NamedTuple):
    """A name that exists."""

    backends: Sequence[Backend]
    service: str
    is_port: bool = False
    """It is a port's name and has SRV records instead of addresses."""


class Zone:
    """The names of one table."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._services: dict[str, dict[str, Backend]] = {}
        self._ports: dict[tuple[str, str, str], Sequence[Backend]] = {}
        for route in routes:
            service = route.service_name.lower()
            backends = [backend for backend in route.backends if not backend.draining]
            self._services.setdefault(service, {}).update((backend.task_id.lower(), backend) for backend in backends)
            self._ports[f"_{route.published_port}", f"_{route.protocol.value}", service] = backends

    def find(self, name: Names) -> Found | None:
        """Return what a name (without the zone's) stands for, None when there is no such name."""
        match name:
            case () | ("tasks",):
                return Found((), "")
            case (service,) | ("tasks", service) if service in self._services:
                return Found(_one_each(self._services[service].values()), service)
            case (task, "tasks", service) if task in self._services.get(service, {}):
                return Found((self._services[service][task],), service)
            case (port, protocol, service) if (port, protocol, service) in self._ports:
                return Found(self._ports[port, protocol, service], service, is_port=True)
            case _:
                return None


def _one_each(backends: Iterable[Backend]) -> list[Backend]:
    """Return one task for each address."""
    return list({backend.addr: backend for backend in backends}.values())


def _records(question: Question, found: Found, backends: Sequence[Backend]) -> Iterable[bytes]:
    if found.is_port:
        if question.kind in {_SRV, _ANY}:
            for backend in backends:
                host = _name((backend.task_id.lower(), "tasks", found.service, *ZONE))
                yield _record(_SRV, struct.pack("!3H", 0, 1, backend.port) + host)
        return
    for backend in backends:
        try:
            address = ipaddress.ip_address(backend.addr)
        except ValueError:
            continue  # a task that is reached by a name has no address to tell
        kind = _A if address.version == 4 else _AAAA
        if question.kind in {kind, _ANY}:
            yield _record(kind, address.packed)


def _record(kind: int, data: bytes, ttl_s: int = TTL_S, owner: bytes = b"\xc0\x0c") -> bytes:
    """Return a record of the asked name."""
    return owner + struct.pack("!HHIH", kind, _IN, ttl_s, len(data)) + data


def _reply(
    question: Question, code: int, records: Sequence[bytes], *, is_authoritative: bool = False, is_cut: bool = False
) -> bytes:
    """Return an answer; one without records says how long that may be remembered."""
    flags = _QR | (question.flags & (_OPCODE | _RD)) | code
    flags |= (_AA if is_authoritative else 0) | (_TC if is_cut else 0)
    authority = b""
    if is_authoritative and not records and not is_cut:
        names = _name(ZONE) + _name(("hostmaster", *ZONE))
        authority = _record(_SOA, names + struct.pack("!5I", 1, 3600, 600, 86400, NEGATIVE_TTL_S), 1, _name(ZONE))
    extra = b"\0" + struct.pack("!HHIH", _OPT, EDNS_BYTES_MAX, 0, 0) if question.has_edns else b""
    header = _HEADER.pack(question.number, flags, 1, len(records), bool(authority), bool(extra))
    return header + question.raw + b"".join(records) + authority + extra


def _parse(query: bytes) -> Question:
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(query)
    if questions != 1 or answers or authorities or additional > 1 or len(query) > QUERY_BYTES_MAX:
        raise BrokenQuery
    name, end = _parse_name(query, _HEADER.size)
    try:
        kind, klass = struct.unpack_from("!HH", query, end)
        bytes_max, has_edns = PLAIN_BYTES_MAX, False
        if additional and query[end + 4] == 0:
            extra_kind, size = struct.unpack_from("!HH", query, end + 5)
            has_edns = extra_kind == _OPT
            bytes_max = max(PLAIN_BYTES_MAX, min(size, EDNS_BYTES_MAX)) if has_edns else PLAIN_BYTES_MAX
    except (struct.error, IndexError):
        raise BrokenQuery from None
    return Question(number, flags, name, kind, klass, query[_HEADER.size : end + 4], bytes_max, has_edns)


def _parse_name(query: bytes, start: int) -> tuple[Names, int]:
    labels: list[str] = []
    here = start
    while here < len(query):
        size = query[here]
        if size == 0:
            return tuple(labels), here + 1
        if size > 63 or len(labels) >= LABELS_MAX or here + 1 + size > len(query):
            raise BrokenQuery
        labels.append(query[here + 1 : here + 1 + size].decode("latin-1").lower())
        here += 1 + size
    raise BrokenQuery


def _name(labels: Names) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("latin-1", "replace") for label in labels) + b"\0"
