"""Specs: what users ask for. Field names and meanings are SwarmKit's unless a comment says otherwise.

Durations are seconds (``_s``), sizes bytes (``_bytes``), processor shares billionths of a core (``nano_cpus``).
"""

from __future__ import annotations

from services.kit.model.ids import ConfigId, NetworkId, SecretId
from services.kit.model.states import (
    Availability,
    BalanceAlgorithm,
    DataPlane,
    DependencyCondition,
    EndpointMode,
    FailureAction,
    Membership,
    MountType,
    Overlap,
    PlacementStrategy,
    Protocol,
    ProxyVersion,
    PublishMode,
    RestartCondition,
    Role,
    UpdateOrder,
)
from services.kit.model.value import Value


class Annotations(Value, frozen=True, kw_only=True):
    """Name and labels of an object."""

    name: str = ""
    labels: dict[str, str] = {}


class GenericResource(Value, frozen=True, kw_only=True):
    """A countable or named resource of a node, for example a GPU. ``names`` empty means counted."""

    kind: str
    count: int = 0
    names: tuple[str, ...] = ()


class Resources(Value, frozen=True, kw_only=True):
    """An amount of a node's resources."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic: tuple[GenericResource, ...] = ()


class ResourceRequirements(Value, frozen=True, kw_only=True):
    """Limits are enforced by the driver, reservations are kept by the scheduler."""

    limits: Resources = Resources()
    reservations: Resources = Resources()
    swap_bytes: int | None = None
    memory_swappiness: int | None = None


class RestartPolicy(Value, frozen=True, kw_only=True):
    """When and how often an ended task is replaced."""

    condition: RestartCondition = RestartCondition.ANY
    delay_s: float = 5.0
    max_attempts: int = 0
    """0 means without limit."""
    window_s: float = 0.0
    """0 means all time."""
    backoff_factor: float = 1.0
    """Each restart in a row waits so many times as long as the one before. Beyond SwarmKit, like the next two."""
    delay_max_s: float = 300.0
    """The delay grows to this at most."""
    jitter: float = 0.0
    """Part of the delay by which it varies up or down, so that what failed together does not come back together."""


class SpreadPreference(Value, frozen=True, kw_only=True):
    """Spread tasks evenly over the values of a label, for example ``node.labels.zone``."""

    descriptor: str


class Placement(Value, frozen=True, kw_only=True):
    """Where a service's tasks may run."""

    constraints: tuple[str, ...] = ()
    preferences: tuple[SpreadPreference, ...] = ()
    platforms: tuple[Platform, ...] = ()
    max_replicas: int = 0
    """Most tasks of the service per node; 0 means without limit."""
    strategy: PlacementStrategy = PlacementStrategy.SPREAD
    """Beyond SwarmKit, as everything that follows here."""
    affinity: tuple[str, ...] = ()
    """Names of services of which a task must be on the node."""
    anti_affinity: tuple[str, ...] = ()
    """Names of services of which no task may be on the node; they keep away in turn. A service's own name: one task a node."""
    priority: int = 0
    """Higher ones are placed first, and may displace lower ones when the cluster allows it."""


class Platform(Value, frozen=True, kw_only=True):
    """Processor architecture and operating system; an empty field matches anything."""

    architecture: str = ""
    os: str = ""


class Mount(Value, frozen=True, kw_only=True):
    """Something mounted into a task."""

    type: MountType = MountType.BIND
    source: str = ""
    target: str
    read_only: bool = False
    consistency: str = ""
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    no_copy: bool = False
    labels: dict[str, str] = {}
    volume_driver: str = ""
    volume_driver_options: dict[str, str] = {}
    subpath: str = ""
    tmpfs_size_bytes: int = 0
    tmpfs_mode: int = 0
    tmpfs_options: str = ""


class FileTarget(Value, frozen=True, kw_only=True):
    """The file under which a task sees a secret or config."""

    name: str
    uid: str = "0"
    gid: str = "0"
    mode: int = 0o444


class SecretReference(Value, frozen=True, kw_only=True):
    """A task's use of a secret."""

    secret_id: SecretId
    secret_name: str
    target: FileTarget


class ConfigReference(Value, frozen=True, kw_only=True):
    """A task's use of a config; no target means it is read by the driver only."""

    config_id: ConfigId
    config_name: str
    target: FileTarget | None = None


class HealthCheck(Value, frozen=True, kw_only=True):
    """How a task proves that it is healthy: ``test`` is ("CMD", …), ("CMD-SHELL", line), ("TCP", port), ("HTTP", url) or ("NONE",)."""

    test: tuple[str, ...] = ()
    interval_s: float = 30.0
    timeout_s: float = 30.0
    retries: int = 3
    start_period_s: float = 0.0
    start_interval_s: float = 5.0


class Ulimit(Value, frozen=True, kw_only=True):
    """A resource limit of the kernel."""

    name: str
    soft: int
    hard: int


class Privileges(Value, frozen=True, kw_only=True):
    """Security settings of a container."""

    credential_spec_config: str = ""
    selinux_disable: bool = False
    selinux_user: str = ""
    selinux_role: str = ""
    selinux_type: str = ""
    selinux_level: str = ""
    seccomp_mode: str = "default"
    seccomp_profile: str = ""
    apparmor_mode: str = "default"
    no_new_privileges: bool = False


class ContainerSpec(Value, frozen=True, kw_only=True):
    """What runs. The process driver takes ``command`` and ``args``; the container drivers also ``image`` and the rest."""

    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """``NAME=value`` each; values may be templates."""
    labels: dict[str, str] = {}
    hostname: str = ""
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    init: bool | None = None
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    stop_signal: str = ""
    stop_grace_period_s: float = 10.0
    mounts: tuple[Mount, ...] = ()
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    health_check: HealthCheck | None = None
    privileges: Privileges = Privileges()
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    isolation: str = "default"
    sysctls: dict[str, str] = {}
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0
    pids_limit: int = 0
    hosts: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    registry_auth: str = ""
    devices: tuple[str, ...] = ()


class NetworkAttachmentConfig(Value, frozen=True, kw_only=True):
    """A task's wish to be on a network."""

    target: NetworkId
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    driver_options: dict[str, str] = {}


class DriverConfig(Value, frozen=True, kw_only=True):
    """A named driver with options."""

    name: str = ""
    options: dict[str, str] = {}


class TaskSpec(Value, frozen=True, kw_only=True):
    """The template of a service's tasks."""

    driver: str = "docker"
    """Which driver of the agent runs it: docker, process, oci, fake."""
    driver_options: dict[str, str] = {}
    container: ContainerSpec = ContainerSpec()
    resources: ResourceRequirements = ResourceRequirements()
    restart: RestartPolicy = RestartPolicy()
    placement: Placement = Placement()
    log_driver: DriverConfig = DriverConfig()
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    force_update: int = 0


class UpdateConfig(Value, frozen=True, kw_only=True):
    """How a change of the spec is rolled out."""

    parallelism: int = 1
    """0 means all at once."""
    delay_s: float = 0.0
    failure_action: FailureAction = FailureAction.PAUSE
    monitor_s: float = 5.0
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.STOP_FIRST


class Replicated(Value, frozen=True, kw_only=True, tag="replicated"):
    """A number of equal tasks."""

    replicas: int = 1


class Global(Value, frozen=True, kw_only=True, tag="global"):
    """One task on every node that fits."""


class CronSchedule(Value, frozen=True, kw_only=True):
    """When a job runs. Beyond SwarmKit."""

    cron: str
    """Minute, hour, day of month, month, day of week; or ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``."""
    time_zone: str = "UTC"
    overlap: Overlap = Overlap.FORBID
    missed_window_s: float = 600.0
    """A run that could not begin in time is made up for within this time, the latest one only; later it is left out."""
    keep_last: int = 3
    """Runs whose tasks are kept."""
    suspended: bool = False


class ReplicatedJob(Value, frozen=True, kw_only=True, tag="replicated-job"):
    """Tasks that run to completion."""

    max_concurrent: int = 1
    total_completions: int = 1
    schedule: CronSchedule | None = None
    """None: run once now, and again at each change of the spec."""


class GlobalJob(Value, frozen=True, kw_only=True, tag="global-job"):
    """One task to completion on every node that fits."""

    schedule: CronSchedule | None = None


ServiceMode = Replicated | Global | ReplicatedJob | GlobalJob


class HttpConfig(Value, frozen=True, kw_only=True):
    """How the gateways treat HTTP. Each request goes to a task of its own choosing; WebSocket and other switches go through."""

    head_bytes_max: int = 32768
    """Longest head of a request; a longer one is answered with 431."""
    head_timeout_s: float = 10.0
    """Time for a head to come once it has begun; then 408."""
    hosts: tuple[str, ...] = ()
    """Names by which the service is asked for, ``*.example.org`` for any one label in front; none means any. Services may share a port."""
    paths: tuple[str, ...] = ()
    """Beginnings of paths, in whole segments, that are the service's; none means all. The most special name and then path wins."""


class IngressConfig(Value, frozen=True, kw_only=True):
    """How the gateways treat connections of an ingress port. Beyond SwarmKit."""

    algorithm: BalanceAlgorithm = BalanceAlgorithm.P2C
    weight_label: str = ""
    """Name of a node label with a number: tasks on that node get so many times the share of others. No label counts as 1."""
    local_first: bool = False
    """Prefer tasks of the node that was asked, unless they are busier than others."""
    slow_start_s: float = 0.0
    """A new task's share grows to its full size over this time."""
    drain_s: float = 0.0
    """Time for open connections to end before a task that is to stop is told so; it has its own grace period after that."""
    idle_timeout_s: float = 3600.0
    """A connection without a byte for so long is ended at both ends; 0 means never."""
    connections_max: int = 0
    """Most open connections on each node, more wait; 0 means as many as the gateway can hold."""
    addresses: tuple[str, ...] = ()
    """Addresses on which nodes answer, each node on those that it has; none means all."""
    nodes: tuple[str, ...] = ()
    """Constraints for nodes that answer, as for placement; none means all nodes."""
    proxy_from: tuple[str, ...] = ()
    """Networks whose connections begin with a PROXY header, such as a load balancer in front; from others it is no header."""
    proxy_to: ProxyVersion = ProxyVersion.NONE
    """The PROXY header that tasks get, with the client's address."""
    http: HttpConfig | None = None
    """Read the port's connections as HTTP/1.1; without ``tls_secret`` ``proxy_from`` then says whose X-Forwarded headers are believed."""
    tls_secret: str = ""
    """Name of a secret with a certificate chain and its key (PEM): TLS ends at the gateways, which all get it. Its newest version counts."""
    plane: DataPlane = DataPlane.USERLAND
    """Whether the kernel may carry connections, unread and uncounted, with the client's address kept (TCP, needs root and nftables)."""
    sni: tuple[str, ...] = ()
    """Names that clients ask TLS for, ``*`` for any: services may share a port. Without ``tls_secret`` TLS goes through to the tasks."""


class PortConfig(Value, frozen=True, kw_only=True):
    """A published port."""

    name: str = ""
    protocol: Protocol = Protocol.TCP
    target_port: int
    published_port: int = 0
    """0 means one of 30000–32767, chosen by the allocator."""
    publish_mode: PublishMode = PublishMode.INGRESS
    ingress: IngressConfig = IngressConfig()


class EndpointSpec(Value, frozen=True, kw_only=True):
    """How a service is reached."""

    mode: EndpointMode = EndpointMode.VIP
    ports: tuple[PortConfig, ...] = ()


class Dependency(Value, frozen=True, kw_only=True):
    """Another service that must have come so far before a task is placed. Beyond SwarmKit."""

    service: str
    """Name; it need not exist yet."""
    condition: DependencyCondition = DependencyCondition.STARTED


class ServiceSpec(Value, frozen=True, kw_only=True):
    """A service as the user wants it."""

    annotations: Annotations
    task: TaskSpec = TaskSpec()
    mode: ServiceMode = Replicated()
    update: UpdateConfig = UpdateConfig()
    rollback: UpdateConfig = UpdateConfig()
    endpoint: EndpointSpec = EndpointSpec()
    depends_on: tuple[Dependency, ...] = ()
    rebalance: bool = False
    """Running tasks may be moved to even out the nodes, as far as the cluster allows it. Beyond SwarmKit."""


class NodeSpec(Value, frozen=True, kw_only=True):
    """A node as the user wants it."""

    annotations: Annotations = Annotations()
    desired_role: Role = Role.WORKER
    membership: Membership = Membership.ACCEPTED
    availability: Availability = Availability.ACTIVE


class SecretSpec(Value, frozen=True, kw_only=True):
    """A secret: 1 to 511,999 bytes."""

    annotations: Annotations
    data: bytes = b""
    templating: str = ""
    driver: DriverConfig = DriverConfig()


class ConfigSpec(Value, frozen=True, kw_only=True):
    """A config: 1 to 1,023,999 bytes."""

    annotations: Annotations
    data: bytes = b""
    templating: str = ""


class IpamConfig(Value, frozen=True, kw_only=True):
    """An address range of a network; an empty subnet means one from the cluster's pools."""

    subnet: str = ""
    range: str = ""
    """Addresses are dealt from this part of the subnet; empty means from all of it."""
    gateway: str = ""
    """Empty means the subnet's first address."""


class NetworkSpec(Value, frozen=True, kw_only=True):
    """A network. What carries it is the affair of the tasks' driver on each node."""

    annotations: Annotations
    driver: DriverConfig = DriverConfig()
    """Empty means ``bridge``: each node's engine makes one, so that tasks of one node reach one another."""
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    """The network of published ports; there is one, and the gateways carry it."""
    ipam_driver: DriverConfig = DriverConfig()
    ipam: tuple[IpamConfig, ...] = ()


class OrchestrationConfig(Value, frozen=True, kw_only=True):
    """Settings of the orchestrators."""

    task_history_retention_limit: int = 5
    """Tasks a slot keeps, running ones included; for a job, runs that are kept. Negative means all."""
    ghost_nodes_after_s: float = 0.0
    """Workers that have been down for so long are removed; 0 means never. Beyond SwarmKit."""


class RaftConfig(Value, frozen=True, kw_only=True):
    """Settings of the store. The election's seconds are the options of the managers' processes, not the cluster's."""

    snapshot_interval: int = 10000
    keep_old_snapshots: int = 0
    log_entries_for_slow_followers: int = 500


class DispatcherConfig(Value, frozen=True, kw_only=True):
    """Settings of agent sessions."""

    heartbeat_period_s: float = 5.0


class ExternalCa(Value, frozen=True, kw_only=True):
    """A signer outside the swarm."""

    protocol: str = "cfssl"
    url: str
    options: dict[str, str] = {}
    ca_cert: bytes = b""


class CaConfig(Value, frozen=True, kw_only=True):
    """Settings of the certificate authority."""

    node_cert_expiry_s: float = 90 * 24 * 3600.0
    expired_return_s: float = 366 * 24 * 3600.0
    """How long after its certificate ran out a node may still come back unattended, known by its key. Beyond SwarmKit."""
    external_cas: tuple[ExternalCa, ...] = ()
    signing_ca_cert: bytes = b""
    signing_ca_key: bytes = b""
    force_rotate: int = 0


class SchedulingConfig(Value, frozen=True, kw_only=True):
    """Settings of the scheduler, beyond SwarmKit."""

    evictions_max: int = 0
    """Most tasks that may be on their way out at one time to make room for more important ones; 0 means none ever."""
    cpu_overcommit: float = 1.0
    """How much processor time may be reserved on a node, as a multiple of what it has."""
    memory_overcommit: float = 1.0
    moves_max: int = 0
    """Most tasks that may be moving at one time to even out the nodes; 0 means that nothing is ever moved."""
    moves_interval_s: float = 60.0
    """How long after one round of moves the next one may begin."""


class ClusterIngressConfig(Value, frozen=True, kw_only=True):
    """Settings of the gateways among themselves. Beyond SwarmKit."""

    encrypted: bool = True
    """Connections to tasks of other nodes travel over TLS between the gateways; else they are dialled directly and in plain."""


class NetworkingConfig(Value, frozen=True, kw_only=True):
    """Where networks that name no subnet get theirs from."""

    default_address_pools: tuple[str, ...] = ("10.0.0.0/8",)
    subnet_size: int = 24
    """Length of the prefix of the subnets that the pools are carved into."""


class ClusterSpec(Value, frozen=True, kw_only=True):
    """The swarm's own settings."""

    annotations: Annotations = Annotations(name="default")
    orchestration: OrchestrationConfig = OrchestrationConfig()
    raft: RaftConfig = RaftConfig()
    dispatcher: DispatcherConfig = DispatcherConfig()
    ca: CaConfig = CaConfig()
    log_driver: DriverConfig = DriverConfig()
    auto_lock_managers: bool = False
    ingress: ClusterIngressConfig = ClusterIngressConfig()
    scheduling: SchedulingConfig = SchedulingConfig()
    networking: NetworkingConfig = NetworkingConfig()
