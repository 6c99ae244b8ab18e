"""Objects: what the store holds. Each has an id, a Meta, and (most) a spec that the user owns.

One writer per field: ``Task.desired_state`` is the dispatcher's; ``Task.status`` is the dispatcher's up to ASSIGNED and the
agent's from ACCEPTED on. The store sets ``meta``; nobody else does.
"""

from __future__ import annotations

from services.kit.model.ids import (
    ClusterId,
    ConfigId,
    NetworkId,
    NodeId,
    SecretId,
    ServiceId,
    SpecVersionId,
    TaskId,
    VolumeId,
)
from services.kit.model.specs import (
    Annotations,
    ClusterSpec,
    ConfigSpec,
    EndpointSpec,
    GenericResource,
    IpamConfig,
    NetworkSpec,
    NodeSpec,
    Platform,
    PortConfig,
    Resources,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from services.kit.model.states import (
    FailureAction,
    IssuanceState,
    NodeState,
    Reachability,
    Role,
    TaskState,
    UpdateState,
)
from services.kit.model.value import Value
from services.kit.model.volumes import Publication, VolumeDriverNode, VolumeInfo, VolumeSpec, VolumeUse


class Meta(Value, frozen=True, kw_only=True):
    """Bookkeeping of the store."""

    version: int = 0
    """Version of the transaction that wrote the object last; 0 before it was stored."""
    created_at: float = 0.0
    """Wall-clock seconds since the epoch, of the proposer."""
    updated_at: float = 0.0


class EngineDescription(Value, frozen=True, kw_only=True):
    """What a driver says of itself."""

    name: str = ""
    version: str = ""
    labels: dict[str, str] = {}
    plugins: tuple[str, ...] = ()
    """``Type/name`` each."""


class TlsInfo(Value, frozen=True, kw_only=True):
    """Which root a node trusts and who signed its certificate."""

    trust_root: bytes = b""
    cert_issuer_subject: bytes = b""
    cert_issuer_public_key: bytes = b""


class NodeDescription(Value, frozen=True, kw_only=True):
    """What an agent says of its node."""

    hostname: str = ""
    platform: Platform = Platform()
    resources: Resources = Resources()
    engine: EngineDescription = EngineDescription()
    drivers: tuple[str, ...] = ()
    """Drivers that can run tasks here."""
    unenforced: tuple[str, ...] = ()
    """Limits that this node cannot enforce, for example ``process.memory``."""
    tls: TlsInfo = TlsInfo()
    volume_drivers: tuple[VolumeDriverNode, ...] = ()
    """Drivers of cluster volumes that this node has."""


class NodeStatus(Value, frozen=True, kw_only=True):
    """What the dispatcher knows of a node."""

    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""
    """Host part under which other nodes reach it."""
    since: float = 0.0
    """Wall-clock seconds since the epoch at which it came into this state."""


class ManagerStatus(Value, frozen=True, kw_only=True):
    """A manager's part in raft; recomputed when read, never stored."""

    raft_addr: str = ""
    leader: bool = False
    reachability: Reachability = Reachability.UNKNOWN


class NodeCertificate(Value, frozen=True, kw_only=True):
    """The issuance record of a node."""

    role: Role = Role.WORKER
    public_key: bytes = b""
    """The node's 32-byte X25519 key."""
    state: IssuanceState = IssuanceState.UNKNOWN
    error: str = ""
    certificate: bytes = b""
    """PEM: leaf, then intermediates."""
    not_after: float = 0.0
    issuer: bytes = b""
    """Key (DER) that signed the certificate in use, as the node has confirmed; a rotation of the root waits for that."""


class Node(Value, frozen=True, kw_only=True):
    """A machine of the swarm."""

    id: NodeId
    meta: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    manager_status: ManagerStatus | None = None
    certificate: NodeCertificate = NodeCertificate()
    role: Role = Role.WORKER
    """Observed role."""
    remote_addr: str = ""
    """Where its remote API is reached (managers), ``host:port``."""


class UpdateStatus(Value, frozen=True, kw_only=True):
    """Where a service's update stands."""

    state: UpdateState = UpdateState.UPDATING
    started_at: float = 0.0
    completed_at: float = 0.0
    message: str = ""
    on_failure: FailureAction | None = None
    """What this update does on too many failures, in place of what the spec says."""


class NetworkAddresses(Value, frozen=True, kw_only=True):
    """What a service or a task has of a network: an address for each family that the network has."""

    network_id: NetworkId
    addresses: tuple[str, ...] = ()


class Endpoint(Value, frozen=True, kw_only=True):
    """A service's allocated endpoint: its ports with every published port filled in, and its virtual addresses."""

    spec: EndpointSpec = EndpointSpec()
    ports: tuple[PortConfig, ...] = ()
    virtual_ips: tuple[NetworkAddresses, ...] = ()
    """In the order of the spec's networks; none in the mode dnsrr."""


class JobStatus(Value, frozen=True, kw_only=True):
    """Which run of a job is current."""

    iteration: int = 0
    last_execution: float = 0.0
    """When it began; for a scheduled job the time at which it was due."""


class Service(Value, frozen=True, kw_only=True):
    """A service."""

    id: ServiceId
    meta: Meta = Meta()
    spec: ServiceSpec
    spec_version: int = 1
    previous_spec: ServiceSpec | None = None
    previous_spec_version: int = 0
    endpoint: Endpoint | None = None
    """None until the allocator has given ports."""
    update_status: UpdateStatus | None = None
    job_status: JobStatus | None = None


class SpecVersion(Value, frozen=True, kw_only=True):
    """One version of a service's task template, kept while a task refers to it."""

    id: SpecVersionId
    meta: Meta = Meta()
    service_id: ServiceId
    version: int
    annotations: Annotations
    task: TaskSpec
    endpoint: EndpointSpec = EndpointSpec()


class PortStatus(Value, frozen=True, kw_only=True):
    """A port that a task really listens on."""

    name: str = ""
    target_port: int
    port: int
    """Port on the node's address."""
    protocol: str = "tcp"
    address: str = ""
    """Empty means the node's address."""


class TaskStatus(Value, frozen=True, kw_only=True):
    """What is observed of a task."""

    state: TaskState = TaskState.NEW
    timestamp: float = 0.0
    message: str = ""
    error: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    ports: tuple[PortStatus, ...] = ()
    applied_by: str = ""
    """Manager that stored this state."""
    applied_at: float = 0.0
    """When it did, by its clock."""
    ran_s: float = 0.0
    """How long the task was RUNNING; set once that is over."""


class Task(Value, frozen=True, kw_only=True):
    """One unit of work. It carries no spec: (service_id, spec_version) names it."""

    id: TaskId
    meta: Meta = Meta()
    service_id: ServiceId
    spec_version: int
    slot: int = 0
    """0 for tasks of global services, which are keyed by their node."""
    node_id: NodeId | None = None
    desired_state: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus()
    job_iteration: int = 0
    attempt: int = 0
    """Restarts in a row that led to this task."""
    reason: str = ""
    """Why it is not wanted any more, where that is not plain from the task itself."""
    generic: tuple[GenericResource, ...] = ()
    """Generic resources that were dealt to this task."""
    volumes: tuple[VolumeUse, ...] = ()
    """Cluster volumes that were chosen for its mounts of type cluster, with its node."""
    networks: tuple[NetworkAddresses, ...] = ()
    """Its addresses, in the order of its template's networks; its own until it is over."""


class TokenLimits(Value, frozen=True, kw_only=True):
    """How long and how often a join token lets nodes in. Beyond SwarmKit."""

    expires_at: float = 0.0
    """Wall-clock seconds; 0 means never."""
    uses_left: int | None = None
    """None means any number."""


class JoinTokens(Value, frozen=True, kw_only=True):
    """The tokens that let a node in, by role."""

    worker: str = ""
    manager: str = ""
    worker_limits: TokenLimits = TokenLimits()
    manager_limits: TokenLimits = TokenLimits()


class RootRotation(Value, frozen=True, kw_only=True):
    """A root that is on its way in."""

    ca_cert: bytes = b""
    ca_key: bytes = b""
    cross_signed_cert: bytes = b""


class RootCa(Value, frozen=True, kw_only=True):
    """The cluster's root."""

    ca_cert: bytes = b""
    """PEM bundle."""
    ca_key: bytes = b""
    """PEM; empty with an external CA."""
    digest: str = ""
    join_tokens: JoinTokens = JoinTokens()
    rotation: RootRotation | None = None
    last_forced_rotation: int = 0


class RevokedCertificate(Value, frozen=True, kw_only=True):
    """A removed node; kept until its certificate has run out."""

    node_id: NodeId
    public_key: bytes
    expires_at: float


class Cluster(Value, frozen=True, kw_only=True):
    """The swarm itself; there is exactly one."""

    id: ClusterId
    meta: Meta = Meta()
    spec: ClusterSpec = ClusterSpec()
    root_ca: RootCa = RootCa()
    revoked: tuple[RevokedCertificate, ...] = ()
    unlock_key: bytes = b""


class Secret(Value, frozen=True, kw_only=True):
    """One version of a secret; its data never changes."""

    id: SecretId
    meta: Meta = Meta()
    spec: SecretSpec
    number: int = 1
    """Which version of the secret with this name it is."""
    superseded_by: SecretId | None = None
    """The next version, which has the name now; None for the current one."""


class Config(Value, frozen=True, kw_only=True):
    """One version of a config; its data never changes."""

    id: ConfigId
    meta: Meta = Meta()
    spec: ConfigSpec
    number: int = 1
    """Which version of the config with this name it is."""
    superseded_by: ConfigId | None = None
    """The next version, which has the name now; None for the current one."""


class Network(Value, frozen=True, kw_only=True):
    """A network. It never changes."""

    id: NetworkId
    meta: Meta = Meta()
    spec: NetworkSpec
    ipam: tuple[IpamConfig, ...] = ()
    """Its ranges with every field filled in; none for the ingress network, which nothing is attached to."""


class Volume(Value, frozen=True, kw_only=True):
    """A cluster volume."""

    id: VolumeId
    meta: Meta = Meta()
    spec: VolumeSpec
    info: VolumeInfo | None = None
    """None until the driver has made it."""
    publications: tuple[Publication, ...] = ()
    """By node."""
    pending_delete: bool = False
    """It goes when no node has it any more."""
    message: str = ""
    """What the driver could not do last."""


Object = Node | Service | SpecVersion | Task | Cluster | Secret | Config | Network | Volume


class ManagerPeer(Value, frozen=True, kw_only=True):
    """A manager as it is handed around: CURVE needs its key in advance, so the certificate comes along."""

    node_id: NodeId
    addr: str
    """Remote API, ``host:port``."""
    certificate: bytes = b""
    """PEM: leaf, then intermediates."""
