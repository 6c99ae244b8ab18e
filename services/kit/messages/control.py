"""Control: what users ask, through swarmctl or the client. Answered by the leader's dispatcher.

Reads are linearizable unless the request says ``stale``; then the asked manager answers from its own replica, quorum or not.
"""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, NODES, Call, Empty, Feed, Owner
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Cluster, Node, Service, SpecVersion, Task
from services.kit.model.specs import ClusterSpec, NodeSpec, ServiceSpec
from services.kit.model.states import Membership, Role, TaskState
from services.kit.model.value import Value


class Filters(Value, frozen=True, kw_only=True):
    """Which objects to list; classes are AND-ed, values of a class OR-ed. A label with an empty value means the key exists."""

    names: tuple[str, ...] = ()
    name_prefixes: tuple[str, ...] = ()
    id_prefixes: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    node_labels: dict[str, str] = {}
    roles: tuple[Role, ...] = ()
    memberships: tuple[Membership, ...] = ()
    service_ids: tuple[ServiceId, ...] = ()
    node_ids: tuple[NodeId, ...] = ()
    desired_states: tuple[TaskState, ...] = ()


class ListRequest(Value, frozen=True, kw_only=True):
    """List objects of the method's kind."""

    filters: Filters = Filters()
    stale: bool = False


class GetRequest(Value, frozen=True, kw_only=True):
    """Get one object by id, by exact name, or by an unambiguous id prefix."""

    ref: str
    stale: bool = False


class ClusterReply(Value, frozen=True, kw_only=True):
    """The cluster without its secrets: keys are removed, join tokens are shown."""

    cluster: Cluster


class NodeReply(Value, frozen=True, kw_only=True):
    """One node; ``manager_status`` is filled in."""

    node: Node


class NodeList(Value, frozen=True, kw_only=True):
    """Nodes, by hostname then id."""

    nodes: tuple[Node, ...] = ()


class ServiceReply(Value, frozen=True, kw_only=True):
    """One service."""

    service: Service


class ServiceList(Value, frozen=True, kw_only=True):
    """Services, by name."""

    services: tuple[Service, ...] = ()


class TaskReply(Value, frozen=True, kw_only=True):
    """One task and its template."""

    task: Task
    spec: SpecVersion | None = None


class TaskList(Value, frozen=True, kw_only=True):
    """Tasks, by service, slot and newest first, with the templates that they refer to."""

    tasks: tuple[Task, ...] = ()
    specs: tuple[SpecVersion, ...] = ()


class UpdateClusterRequest(Value, frozen=True, kw_only=True):
    """Change the cluster's spec and rotate what is named."""

    version: int
    spec: ClusterSpec
    rotate_worker_token: bool = False
    rotate_manager_token: bool = False
    rotate_unlock_key: bool = False
    token_lives_s: float = 0.0
    """How long the new tokens let nodes in; 0 means until they are rotated."""
    token_uses: int = 0
    """How many nodes each new token lets in; 0 means any number."""


class UpdateNodeRequest(Value, frozen=True, kw_only=True):
    """Change a node's spec: availability, labels, desired role."""

    node_id: NodeId
    version: int
    spec: NodeSpec


class RemoveNodeRequest(Value, frozen=True, kw_only=True):
    """Remove a node; one that is READY needs force."""

    node_id: NodeId
    force: bool = False


class CreateServiceRequest(Value, frozen=True, kw_only=True):
    """Create a service. The same request id twice creates one."""

    spec: ServiceSpec
    request_id: str = ""


class UpdateServiceRequest(Value, frozen=True, kw_only=True):
    """Replace a service's spec, or go back to the previous one, or stop and continue its update; based on the version that was read."""

    service_id: ServiceId
    version: int
    spec: ServiceSpec | None = None
    rollback: bool = False
    pause: bool = False
    resume: bool = False


class RemoveServiceRequest(Value, frozen=True, kw_only=True):
    """Remove a service and its tasks."""

    service_id: ServiceId


class RemoveTaskRequest(Value, frozen=True, kw_only=True):
    """Delete a task from the store whatever its state."""

    task_id: TaskId


class ServiceStatus(Value, frozen=True, kw_only=True):
    """Counts of a service's tasks."""

    service_id: ServiceId
    desired: int
    running: int
    completed: int = 0


class StatusesRequest(Value, frozen=True, kw_only=True):
    """Counts for these services; none means all."""

    service_ids: tuple[ServiceId, ...] = ()
    stale: bool = False


class StatusesReply(Value, frozen=True, kw_only=True):
    """Counts in the order asked."""

    statuses: tuple[ServiceStatus, ...] = ()


class WatchObjects(Value, frozen=True, kw_only=True):
    """Follow objects from now on (version 0) or from behind a version."""

    tables: tuple[str, ...] = ()
    """node, service, task, cluster, secret, config, network, volume, spec; none means all."""
    service_ids: tuple[ServiceId, ...] = ()
    version: int = 0
    ids: tuple[str, ...] = ()
    """Only objects with these ids; none means all."""
    with_old: bool = False
    """Say what was there before as well."""


class ObjectEvent(Value, frozen=True, kw_only=True):
    """What happened to one object."""

    action: str
    """create, update or remove."""
    table: str
    object: bytes
    """The object, encoded; ``kit.state.tables`` decodes it by table."""
    old: bytes = b""
    """What was there before, when that was asked for."""


class ObjectEvents(Value, frozen=True, kw_only=True):
    """Events of one transaction. The first item of a watch has none and says from where it goes on."""

    version: int
    events: tuple[ObjectEvent, ...] = ()
    actor: str = ""
    """Who made the transaction."""
    cause: str = ""
    """The method that was called, or the loops that decided."""
    at: float = 0.0
    """When, by the clock of the manager that led."""


class VersionReply(Value, frozen=True, kw_only=True):
    """What answers."""

    version: str
    protocol: int
    node_id: NodeId
    at: float = 0.0
    """What its clock says, in seconds since the epoch."""


GET_CLUSTER = Call(
    name="control.get_cluster",
    request=GetRequest,
    reply=ClusterReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
UPDATE_CLUSTER = Call(
    name="control.update_cluster",
    request=UpdateClusterRequest,
    reply=ClusterReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
LIST_NODES = Call(
    name="control.list_nodes",
    request=ListRequest,
    reply=NodeList,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
GET_NODE = Call(
    name="control.get_node",
    request=GetRequest,
    reply=NodeReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
UPDATE_NODE = Call(
    name="control.update_node",
    request=UpdateNodeRequest,
    reply=NodeReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
REMOVE_NODE = Call(
    name="control.remove_node",
    request=RemoveNodeRequest,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
LIST_SERVICES = Call(
    name="control.list_services",
    request=ListRequest,
    reply=ServiceList,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
GET_SERVICE = Call(
    name="control.get_service",
    request=GetRequest,
    reply=ServiceReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
CREATE_SERVICE = Call(
    name="control.create_service",
    request=CreateServiceRequest,
    reply=ServiceReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
UPDATE_SERVICE = Call(
    name="control.update_service",
    request=UpdateServiceRequest,
    reply=ServiceReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
REMOVE_SERVICE = Call(
    name="control.remove_service",
    request=RemoveServiceRequest,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
SERVICE_STATUSES = Call(
    name="control.service_statuses",
    request=StatusesRequest,
    reply=StatusesReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
LIST_TASKS = Call(
    name="control.list_tasks",
    request=ListRequest,
    reply=TaskList,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
GET_TASK = Call(
    name="control.get_task",
    request=GetRequest,
    reply=TaskReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
REMOVE_TASK = Call(
    name="control.remove_task",
    request=RemoveTaskRequest,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
WATCH = Feed(name="control.watch", request=WatchObjects, item=ObjectEvents, owner=Owner.DISPATCHER, roles=MANAGERS)
VERSION = Call(
    name="control.version", request=Empty, reply=VersionReply, owner=Owner.GATEWAY, roles=NODES, idempotent=True
)

METHODS = (
    GET_CLUSTER,
    UPDATE_CLUSTER,
    LIST_NODES,
    GET_NODE,
    UPDATE_NODE,
    REMOVE_NODE,
    LIST_SERVICES,
    GET_SERVICE,
    CREATE_SERVICE,
    UPDATE_SERVICE,
    REMOVE_SERVICE,
    SERVICE_STATUSES,
    LIST_TASKS,
    GET_TASK,
    REMOVE_TASK,
    WATCH,
    VERSION,
)
