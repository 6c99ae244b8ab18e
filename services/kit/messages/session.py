"""Sessions: an agent and the leader's dispatcher.

The agent opens ``SESSION``; its first message carries the session id. Then it opens ``ASSIGNMENTS``, beats, and reports statuses.
Any failing part ends the whole session and the agent registers again, offering its old session id.
"""

from __future__ import annotations

from services.kit.messages.exec import ExecRequest
from services.kit.messages.logs import LogRequest
from services.kit.messages.method import NODES, Call, Empty, Feed, Owner
from services.kit.model.ids import SessionId, TaskId, VolumeId
from services.kit.model.objects import (
    Config,
    ManagerPeer,
    Network,
    Node,
    NodeDescription,
    Secret,
    SpecVersion,
    Task,
    TaskStatus,
)
from services.kit.model.value import Value
from services.kit.model.volumes import AccessMode, VolumeSecret


class SessionRequest(Value, frozen=True, kw_only=True):
    """Register this node."""

    description: NodeDescription
    session_id: SessionId = SessionId("")
    """The previous session, resumed when it is still valid."""
    addr: str = ""
    """Host under which other nodes reach this one; empty means the address the connection came from."""


class RegistryAuth(Value, frozen=True, kw_only=True):
    """What a registry of images wants to know of who pulls from it."""

    registry: str
    """Host, with its port if any; ``docker.io`` for the hub."""
    auth: str
    """In the form of ``ContainerSpec.registry_auth``."""


class SessionMessage(Value, frozen=True, kw_only=True):
    """The first carries everything, later ones what changed."""

    session_id: SessionId
    node: Node | None = None
    managers: tuple[ManagerPeer, ...] = ()
    """Empty means unchanged."""
    root_bundle: bytes = b""
    log_requests: tuple[LogRequest, ...] = ()
    """Subscriptions to start or (closed=True) to end."""
    exec_requests: tuple[ExecRequest, ...] = ()
    """Conversations to take on or (closed=True) to end."""
    registry_auths: tuple[RegistryAuth, ...] | None = None
    """The swarm's credentials for registries of images, all of them; None means unchanged."""


class Heartbeat(Value, frozen=True, kw_only=True):
    """I live."""

    session_id: SessionId


class HeartbeatReply(Value, frozen=True, kw_only=True):
    """Beat again within this time."""

    period_s: float


class AssignedTask(Value, frozen=True, kw_only=True):
    """A task of this node, with the template it needs; the template of a known version is sent once."""

    task: Task


class AssignedVolume(Value, frozen=True, kw_only=True):
    """A cluster volume that this node may use, and what its driver needs to know."""

    id: VolumeId
    driver: str
    driver_options: dict[str, str] = {}
    volume_id: str
    """The driver's own id."""
    access_mode: AccessMode = AccessMode()
    volume_context: dict[str, str] = {}
    publish_context: dict[str, str] = {}
    secrets: tuple[VolumeSecret, ...] = ()
    """Their data comes among the assignment's secrets."""


class AssignmentsRequest(Value, frozen=True, kw_only=True):
    """What must this node run?"""

    session_id: SessionId


class Assignments(Value, frozen=True, kw_only=True):
    """A full set, then changes. ``applies_to`` names the message it follows; a gap means: open the stream again."""

    full: bool
    applies_to: int
    results_in: int
    more_follows: bool = False
    """The full set goes on in the next message: until its last part, what was not named is not missing."""
    tasks: tuple[AssignedTask, ...] = ()
    """Tasks to add or replace."""
    removed_tasks: tuple[TaskId, ...] = ()
    specs: tuple[SpecVersion, ...] = ()
    secrets: tuple[Secret, ...] = ()
    removed_secrets: tuple[str, ...] = ()
    configs: tuple[Config, ...] = ()
    removed_configs: tuple[str, ...] = ()
    volumes: tuple[AssignedVolume, ...] = ()
    removed_volumes: tuple[VolumeId, ...] = ()
    """To be taken down when no task uses them any more, and reported with ``UPDATE_VOLUMES``."""
    networks: tuple[Network, ...] = ()
    removed_networks: tuple[str, ...] = ()


class StatusUpdate(Value, frozen=True, kw_only=True):
    """The newest status of one task."""

    task_id: TaskId
    status: TaskStatus


class UpdateTaskStatus(Value, frozen=True, kw_only=True):
    """A batch of statuses; answered when they are stored."""

    session_id: SessionId
    updates: tuple[StatusUpdate, ...]


class UpdateVolumes(Value, frozen=True, kw_only=True):
    """Volumes that the node has taken down; answered when that is stored."""

    session_id: SessionId
    unpublished: tuple[VolumeId, ...]


SESSION = Feed(
    name="session.open", request=SessionRequest, item=SessionMessage, owner=Owner.DISPATCHER, roles=NODES, leader=True
)
HEARTBEAT = Call(
    name="session.heartbeat",
    request=Heartbeat,
    reply=HeartbeatReply,
    owner=Owner.DISPATCHER,
    roles=NODES,
    leader=True,
    idempotent=True,
    timeout_s=5.0,
)
ASSIGNMENTS = Feed(
    name="session.assignments",
    request=AssignmentsRequest,
    item=Assignments,
    owner=Owner.DISPATCHER,
    roles=NODES,
    leader=True,
)
UPDATE_STATUS = Call(
    name="session.update_status",
    request=UpdateTaskStatus,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=NODES,
    leader=True,
    idempotent=True,
)
UPDATE_VOLUMES = Call(
    name="session.update_volumes",
    request=UpdateVolumes,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=NODES,
    leader=True,
    idempotent=True,
)

METHODS = (SESSION, HEARTBEAT, ASSIGNMENTS, UPDATE_STATUS, UPDATE_VOLUMES)
