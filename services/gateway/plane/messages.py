"""What the gateway and its data plane say to one another over plane.sock: one JSON line per message, ``[kind, field, …]``.

``Listen`` and ``Holding`` carry a listening socket beside the line. Both sides are always of this tree, but not always of the same
version: a plane outlives its gateway, so a change here needs a new ``VERSION``, and a gateway retires a plane of another one.
"""

from __future__ import annotations

import json
from typing import NamedTuple

VERSION = 6
LINE_BYTES_MAX = 32 << 20


class Endpoint(NamedTuple):
    """A task as the plane needs it."""

    task_id: str
    addr: str
    port: int
    draining: bool
    weight: float = 1.0
    local: bool = False
    """It runs on this node."""
    node_id: str = ""
    via: str = ""
    """``host:port`` of the gateway on its node, when it is reached through that."""


class PortSettings(NamedTuple):
    """How connections of a port are treated; see ``IngressConfig``."""

    algorithm: str = "p2c"
    slow_start_s: float = 0.0
    local_first: bool = False
    idle_timeout_s: float = 0.0
    connections_max: int = 0
    """Of this worker."""
    proxy_from: list[str] = []
    proxy_to: str = "none"
    http_head_bytes_max: int = 0
    """0 for a port that is not HTTP."""
    http_head_timeout_s: float = 0.0
    """0 for as long as it takes."""
    hosts: list[str] = []
    """Names that clients ask HTTP or TLS for, when other services may share the port; none means any."""
    paths: list[str] = []
    is_tls: bool = False
    """Clients begin with TLS."""
    tls_pem: str = ""
    """Certificate chain and key, where TLS ends here."""
    tls_ends: bool = False
    """TLS ends here, also where there is no certificate (yet)."""


class PortRoute(NamedTuple):
    """A published port, ``port/protocol``, and all tasks behind it; ``port/protocol/service`` where services may share it."""

    key: str
    endpoints: list[Endpoint]
    settings: PortSettings


class Table(NamedTuple):
    """Routes to replace and to drop; ``full`` drops all others first. The gateway numbers its tables by ``serial``."""

    serial: int
    full: bool
    routes: list[PortRoute]
    removed: list[str]


class Listen(NamedTuple):
    """Accept on the socket that comes with this line. Its name is ``port/protocol@host``: a port may have several."""

    name: str


class Unlisten(NamedTuple):
    """Close this listener."""

    name: str


class MeshIdentity(NamedTuple):
    """Paths of PEM files with which workers prove to other gateways which node this is."""

    roots: str
    certificate: str
    key: str
    cluster_id: str


class Drain(NamedTuple):
    """The node stops: end all listening, finish what is open within this time, exit."""

    within_s: float


class Retire(NamedTuple):
    """Another worker has taken over the listeners: finish what is open within this time, exit."""

    within_s: float


class AskCounts(NamedTuple):
    """Answer with ``Counts``."""


class Hello(NamedTuple):
    """First line of the plane. ``Holding`` lines follow, then ``Held``."""

    version: int
    pid: int
    worker: int


class Holding(NamedTuple):
    """I accept on this socket: keep a copy, so that it outlives me."""

    name: str


class Held(NamedTuple):
    """That were all."""


class Applied(NamedTuple):
    """The worker acts on this table; open connections of its draining tasks."""

    serial: int
    draining: dict[str, int]


class Counts(NamedTuple):
    """Numbers of this worker: its own by name, and by task; latencies as ``core/latency`` writes them."""

    worker: dict[str, int]
    tasks: dict[str, dict[str, int]]
    connects: dict[str, list[float]] = {}
    answers: dict[str, list[float]] = {}


Message = (
    Table | Listen | Unlisten | MeshIdentity | Drain | Retire | AskCounts | Hello | Holding | Held | Applied | Counts
)
KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (Table, Listen, Unlisten, MeshIdentity, Drain, Retire, AskCounts, Hello, Holding, Held, Applied, Counts)
}
WITH_SOCKET = (Listen, Holding)


def route_of(listener: str) -> str:
    """Return the key of the port that a listener with this name belongs to."""
    return listener.partition("@")[0]


def door_of(key: str) -> str:
    """Return the key of the port that a route is a part of; its own for one that has a port for itself."""
    return "/".join(key.split("/")[:2])


class BrokenLine(Exception):
    """The other side sent what cannot be a message."""


def encode(message: Message) -> bytes:
    """Return the line of a message."""
    return json.dumps([type(message).__name__, *message], separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of a line; raises BrokenLine."""
    try:
        kind, *fields = json.loads(line)
        message = KINDS[kind](*fields)
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenLine(f"{type(error).__name__}: {line[:80]!r}") from error
    if isinstance(message, Table):
        routes = [
            PortRoute(key, [Endpoint(*endpoint) for endpoint in endpoints], PortSettings(*settings))
            for key, endpoints, settings in message.routes
        ]
        return message._replace(routes=routes)
    return message
