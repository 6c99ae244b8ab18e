"""The route table: which tasks stand behind each published port. One book a term, read by every gateway's stream.

A backend is a RUNNING task that reported the port; one that is wanted no more but still runs is draining. What must stay true: epochs
grow by one with each change that is handed out, and a reader that starts from a full table and takes every change has the full table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.kit.messages.routes import Backend, Route, RouteTable
from services.kit.model.constraints import parse_constraints, satisfies
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.ingress import wanted
from services.kit.model.objects import Cluster, Node, PortStatus, Secret, Service, Task
from services.kit.model.specs import PortConfig
from services.kit.model.states import PublishMode, TaskState
from services.kit.state.state import Event
from services.kit.state.view import View

WEIGHT_MAX = 1000.0
PROXY_LABELS = "traefik."


class RouteBook:
    """All routes of the swarm, and who acts on which epoch."""

    def __init__(self, view: View) -> None:
        self._routes: dict[str, Route] = {}
        self._of_service: dict[ServiceId, tuple[str, ...]] = {}
        self._revoked: tuple[bytes, ...] = ()
        self._stale: dict[ServiceId, None] = dict.fromkeys(view.services)
        self._look_at_cluster = True
        self._mesh_ports: dict[NodeId, int] = {}
        self._encrypted = _is_encrypted(view)
        self.epoch = 0
        self.refresh(view)

    @property
    def is_stale(self) -> bool:
        """Tell whether ``refresh`` may find anything."""
        return bool(self._stale) or self._look_at_cluster

    def notice(self, view: View, event: Event) -> None:
        """Take a change of the store."""
        thing, old = event.object, event.old
        if isinstance(thing, Task):
            if thing.service_id in self._of_service and _backend_changed(old, event.new):
                self._stale[thing.service_id] = None
        elif isinstance(thing, Service):
            self._stale[thing.id] = None
        elif isinstance(thing, Node):
            self._notice_node(view, event, thing)
        elif isinstance(thing, Secret):
            self._notice_secret(thing.spec.annotations.name)
        elif isinstance(thing, Cluster):
            self._look_at_cluster = True
            if self._encrypted != _is_encrypted(view):
                self._encrypted = not self._encrypted
                self._stale |= dict.fromkeys(view.services)

    def refresh(self, view: View) -> RouteTable | None:
        """Return what changed since the last call as the next epoch, None when nothing did."""
        stale, self._stale = self._stale, {}
        changed: dict[str, Route] = {}
        removed: dict[str, None] = {}
        for service_id in stale:
            service = view.services.get(service_id)
            routes = {} if service is None else {route.key: route for route in self._routes_of(view, service)}
            removed |= dict.fromkeys(key for key in self._of_service.get(service_id, ()) if key not in routes)
            changed |= {key: route for key, route in routes.items() if self._routes.get(key) != route}
            self._of_service.pop(service_id, None)
            if routes:
                self._of_service[service_id] = tuple(routes)
        gone = [key for key in removed if key not in changed and not self._is_held(key)]
        revoked = self._newly_revoked(view)
        if not changed and not gone and not revoked:
            return None
        for key in gone:
            self._routes.pop(key, None)
        self._routes |= changed
        self.epoch += 1
        return RouteTable(
            epoch=self.epoch, full=False, routes=tuple(changed.values()), removed=tuple(gone), revoked=revoked
        )

    def full(self) -> RouteTable:
        """Return the whole table at the current epoch."""
        return RouteTable(epoch=self.epoch, full=True, routes=tuple(self._routes.values()), revoked=self._revoked)

    def mesh_opened(self, view: View, node: NodeId, port: int) -> None:
        """A node's gateway takes connections from others at this port; it stays known when the gateway is away for a while."""
        if self._mesh_ports.get(node) != port:
            self._mesh_ports[node] = port
            self._look_at_tasks_of(view, node)

    def _look_at_tasks_of(self, view: View, node: NodeId) -> None:
        tasks = view.tasks_of_node(node).values()
        self._stale |= dict.fromkeys(t.service_id for t in tasks if t.service_id in self._of_service)

    def carries(self, task: Task) -> bool:
        """Tell whether gateways may send connections to a task."""
        return (
            task.service_id in self._of_service and task.status.state is TaskState.RUNNING and bool(task.status.ports)
        )

    def drain_s(self, service_id: ServiceId) -> float:
        """Return how long open connections of a service's tasks may take before a task is told to stop."""
        keys = self._of_service.get(service_id, ())
        return max((self._routes[key].ingress.drain_s for key in keys if key in self._routes), default=0.0)

    def _notice_secret(self, name: str) -> None:
        for service_id, keys in self._of_service.items():
            secrets = [self._routes[key].ingress.tls_secret for key in keys if key in self._routes]
            if name.lower() in [secret.lower() for secret in secrets]:
                self._stale[service_id] = None

    def _notice_node(self, view: View, event: Event, node: Node) -> None:
        """A node's address and weights are in the routes of its tasks; which nodes answer on a port may depend on any node."""
        old = event.old if event.new is not None else None
        if not isinstance(old, Node) or (old.status.addr, old.spec) != (node.status.addr, node.spec):
            self._look_at_tasks_of(view, node.id)
        if not isinstance(old, Node) or _constrained_part(old) != _constrained_part(node):
            for service_id, keys in self._of_service.items():
                if any(key in self._routes and self._routes[key].nodes is not None for key in keys):
                    self._stale[service_id] = None

    def _routes_of(self, view: View, service: Service) -> Iterable[Route]:
        if service.endpoint is None:
            return
        labels = service.spec.annotations.labels
        ports = [wanted(port, labels) for port in service.endpoint.ports if _is_ingress(port)]
        if not ports:
            return
        tasks = [task for task in view.tasks_of_service(service.id).values() if task.status.state is TaskState.RUNNING]
        tasks.sort(key=lambda task: (task.slot, task.id))
        for port in ports:
            yield Route(
                service_id=service.id,
                service_name=service.spec.annotations.name,
                published_port=port.published_port,
                protocol=port.protocol,
                ingress=port.ingress,
                labels=_proxy_labels(service),
                nodes=_nodes(view, port),
                backends=tuple(self._backends(view, port, tasks)),
                certificate=_certificate(view, port.ingress.tls_secret),
            )

    def _backends(self, view: View, port: PortConfig, tasks: Sequence[Task]) -> Iterable[Backend]:
        for task in tasks:
            node = None if task.node_id is None else view.nodes.get(task.node_id)
            reported = _reported(port, task)
            if node is None or reported is None:
                continue
            yield Backend(
                task_id=task.id,
                node_id=node.id,
                addr=reported.address or node.status.addr,
                port=reported.port,
                draining=task.desired_state > TaskState.COMPLETE,
                is_private=self._encrypted,
                via=self._via(node),
                weight=_weight(node, port.ingress.weight_label) if port.ingress.weight_label else 1.0,
            )

    def _via(self, node: Node) -> str:
        """Return where a node's gateway takes connections for its tasks, nothing when nobody is to use that or knows it."""
        addr, port = node.status.addr, self._mesh_ports.get(node.id, 0)
        if not (self._encrypted and addr and port):
            return ""
        return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"

    def _is_held(self, key: str) -> bool:
        """Tell whether another service has taken a port over that this one gave up."""
        return any(key in keys for keys in self._of_service.values())

    def _newly_revoked(self, view: View) -> tuple[bytes, ...]:
        """Return all revoked keys when there is a new one among them."""
        if not self._look_at_cluster:
            return ()
        self._look_at_cluster = False
        before = set(self._revoked)
        cluster = view.cluster
        self._revoked = () if cluster is None else tuple(each.public_key for each in cluster.revoked)
        return self._revoked if set(self._revoked) - before else ()


def for_node(table: RouteTable, node: NodeId) -> RouteTable:
    """Return a table as a node may have it: without the certificates of ports that it does not answer on."""
    if not any(route.certificate and route.nodes is not None and node not in route.nodes for route in table.routes):
        return table
    routes = tuple(
        route if route.nodes is None or node in route.nodes else msgspec.structs.replace(route, certificate=b"")
        for route in table.routes
    )
    return msgspec.structs.replace(table, routes=routes)


def _certificate(view: View, name: str) -> bytes:
    """Return the newest version of a secret, nothing when there is none."""
    if not name:
        return b""
    for secret in view.secrets.values():
        if secret.superseded_by is None and secret.spec.annotations.name.lower() == name.lower():
            return secret.spec.data
    return b""


def _nodes(view: View, port: PortConfig) -> tuple[NodeId, ...] | None:
    """Return the nodes that answer on a port, None when all do."""
    if not port.ingress.nodes:
        return None
    constraints = parse_constraints(port.ingress.nodes)
    return tuple(sorted(node.id for node in view.nodes.values() if satisfies(node, constraints)))


def _constrained_part(node: Node) -> object:
    """Return what a constraint may ask of a node."""
    return node.spec, node.role, node.description, node.status.addr


def _proxy_labels(service: Service) -> dict[str, str]:
    labels = service.spec.annotations.labels
    return {name: value for name, value in labels.items() if name.startswith(PROXY_LABELS)}


def _is_encrypted(view: View) -> bool:
    """Tell whether gateways reach tasks of other nodes through one another."""
    return view.cluster is None or view.cluster.spec.ingress.encrypted


def _weight(node: Node, label: str) -> float:
    """Return the weight that a node's label gives its tasks; what is no positive number counts as 1."""
    try:
        weight = float(node.spec.annotations.labels.get(label, "1"))
    except ValueError:
        return 1.0
    return weight if 0 < weight <= WEIGHT_MAX else 1.0


def _reported(port: PortConfig, task: Task) -> PortStatus | None:
    """Return where a task listens for a published port."""
    for reported in task.status.ports:
        same = reported.target_port == port.target_port and reported.protocol == port.protocol
        if same and (not port.name or not reported.name or port.name == reported.name):
            return reported
    return None


def _is_ingress(port: PortConfig) -> bool:
    return port.publish_mode is PublishMode.INGRESS and port.published_port > 0


def _backend_changed(old: object, new: object) -> bool:
    """Tell whether a change of a task may change a route."""
    before = old if isinstance(old, Task) and old.status.state is TaskState.RUNNING else None
    after = new if isinstance(new, Task) and new.status.state is TaskState.RUNNING else None
    if before is None or after is None:
        return before is not after
    return (before.desired_state, before.node_id, before.status.ports) != (
        after.desired_state,
        after.node_id,
        after.status.ports,
    )
