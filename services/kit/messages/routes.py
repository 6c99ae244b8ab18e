"""Routes: the dispatcher tells every gateway which tasks stand behind each published port."""

from __future__ import annotations

from services.kit.messages.method import NODES, Call, Empty, Feed, Owner
from services.kit.model.ids import NodeId, ServiceId, TaskId
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


class Route(Value, frozen=True, kw_only=True):
    """One published port. A route without backends accepts and closes at once."""

    service_id: ServiceId
    service_name: str = ""
    published_port: int
    protocol: Protocol = Protocol.TCP
    backends: tuple[Backend, ...] = ()


class WatchRoutes(Value, frozen=True, kw_only=True):
    """A gateway wants the table."""


class RouteTable(Value, frozen=True, kw_only=True):
    """The full table first, then changes, numbered by epoch without gaps; a route is replaced whole."""

    epoch: int
    full: bool
    routes: tuple[Route, ...] = ()
    removed: tuple[str, ...] = ()
    """``port/protocol`` of routes that are gone."""


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

METHODS = (WATCH, ACK)
