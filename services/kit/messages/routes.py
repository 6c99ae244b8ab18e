"""Routes: the dispatcher tells every gateway which tasks stand behind each published port."""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, NODES, Call, Empty, Feed, Owner
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.ingress import is_by_name
from services.kit.model.specs import IngressConfig
from services.kit.model.states import Protocol
from services.kit.model.value import Value


class Backend(Value, frozen=True, kw_only=True):
    """One task that can take connections."""

    task_id: TaskId
    node_id: NodeId
    addr: str
    """Address of the task as seen from other nodes."""
    port: int
    draining: bool = False
    """No new connections; open ones go on."""
    weight: float = 1.0
    """Share of new connections beside other tasks."""
    is_private: bool = False
    """Gateways of other nodes reach it through ``via`` only."""
    via: str = ""
    """``host:port`` at which its node's gateway takes connections from others; empty while nobody knows."""


class Route(Value, frozen=True, kw_only=True):
    """One published port. A route without backends accepts and closes at once."""

    service_id: ServiceId
    service_name: str = ""
    published_port: int
    protocol: Protocol = Protocol.TCP
    ingress: IngressConfig = IngressConfig()
    labels: dict[str, str] = {}
    """Labels of the service that are meant for proxies in front of the swarm (``traefik.``)."""
    nodes: tuple[NodeId, ...] | None = None
    """Nodes that answer on the port; None means all."""
    backends: tuple[Backend, ...] = ()
    certificate: bytes = b""
    """Certificate chain and key (PEM) where TLS ends at the gateways; only nodes that answer on the port get it."""

    @property
    def door(self) -> str:
        """What is listened on: ``port/protocol``."""
        return f"{self.published_port}/{self.protocol.value}"

    @property
    def key(self) -> str:
        """What the route goes by; services that share a port each have a route."""
        return f"{self.door}/{self.service_id}" if is_by_name(self.ingress) else self.door


class WatchRoutes(Value, frozen=True, kw_only=True):
    """A gateway wants the table."""

    mesh_port: int = 0
    """Where it takes connections from other gateways, on the node's address; 0 for one that takes none."""


class RouteTable(Value, frozen=True, kw_only=True):
    """The full table first, then changes, numbered by epoch without gaps; a route is replaced whole."""

    epoch: int
    full: bool
    routes: tuple[Route, ...] = ()
    removed: tuple[str, ...] = ()
    """Keys of routes that are gone."""
    revoked: tuple[bytes, ...] = ()
    """Public keys of removed nodes: all of them in a full table and in a change that adds one; otherwise empty."""


class AckRoutes(Value, frozen=True, kw_only=True):
    """This gateway acts on this epoch now."""

    epoch: int
    connections: dict[str, int] = {}
    """Open connections per draining task."""


WATCH = Feed(
    name="routes.watch", request=WatchRoutes, item=RouteTable, owner=Owner.DISPATCHER, roles=NODES, leader=True
)
ACK = Call(
    name="routes.ack",
    request=AckRoutes,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=NODES,
    leader=True,
    idempotent=True,
)


class LatencyCounts(Value, frozen=True, kw_only=True):
    """How long things took: the sum of all, and how many took at most each of the status's bounds, and longer than the last."""

    sum_s: float = 0.0
    counts: tuple[int, ...] = ()


class TaskTraffic(Value, frozen=True, kw_only=True):
    """What one gateway carried to and from one task."""

    task_id: str
    open: int = 0
    connections: int = 0
    failures: int = 0
    """Attempts to connect that were refused or timed out; most of them were made good by another task."""
    ejections: int = 0
    bytes_in: int = 0
    """From clients to the task, of connections that have ended."""
    bytes_out: int = 0
    connects: LatencyCounts = LatencyCounts()
    """Making connections to it."""
    answers: LatencyCounts = LatencyCounts()
    """From a whole request to the beginning of its answer, on HTTP ports."""


class IngressStatus(Value, frozen=True, kw_only=True):
    """What one gateway's data plane does."""

    epoch: int
    """Of the table it acts on; -1 before the first one."""
    workers: int
    open: int = 0
    accepted: int = 0
    refused: int = 0
    """Connections that no task could be found for."""
    retried: int = 0
    closed_ports: dict[str, str] = {}
    """Published ports that are not open on this node, and why."""
    kernel_ports: tuple[str, ...] = ()
    """Ports whose connections to this node's tasks the kernel carries; they are counted nowhere."""
    kernel_failure: str = ""
    """Why it does not although ports ask for it."""
    tasks: tuple[TaskTraffic, ...] = ()
    latency_bounds_s: tuple[float, ...] = ()


STATUS = Call(
    name="routes.status", request=Empty, reply=IngressStatus, owner=Owner.GATEWAY, roles=MANAGERS, idempotent=True
)
"""Of the asked node's own data plane; also answered on a worker, to its own user."""

METHODS = (WATCH, ACK, STATUS)
