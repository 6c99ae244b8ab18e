"""States and other closed sets of values; numbers are SwarmKit's, with gaps where it has gaps."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TaskState(IntEnum):
    """Life of a task. Observed state only moves forward; REMOVE is only ever desired."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def terminal(self) -> bool:
        """True when a task in this observed state never runs again."""
        return self > TaskState.RUNNING


class NodeState(IntEnum):
    """What the dispatcher knows of a node."""

    UNKNOWN = 0
    DOWN = 1
    READY = 2
    DISCONNECTED = 3


class Availability(StrEnum):
    """Whether the scheduler may use a node."""

    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class Role(StrEnum):
    """A node's role."""

    WORKER = "worker"
    MANAGER = "manager"


class Membership(StrEnum):
    """Whether a node was let in."""

    PENDING = "pending"
    ACCEPTED = "accepted"


class Reachability(StrEnum):
    """Whether a manager answers its peers."""

    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"
    REACHABLE = "reachable"


class IssuanceState(StrEnum):
    """Where a node's certificate request stands."""

    UNKNOWN = "unknown"
    RENEW = "renew"
    PENDING = "pending"
    ISSUED = "issued"
    FAILED = "failed"
    ROTATE = "rotate"


class RestartCondition(StrEnum):
    """When an ended task is replaced."""

    NONE = "none"
    ON_FAILURE = "on-failure"
    ANY = "any"


class FailureAction(StrEnum):
    """What an update does when too many of its tasks fail."""

    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class UpdateOrder(StrEnum):
    """Whether a slot's old task stops before or after its new one runs."""

    STOP_FIRST = "stop-first"
    START_FIRST = "start-first"


class UpdateState(StrEnum):
    """Where a service's update stands."""

    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"


class DependencyCondition(StrEnum):
    """What a service waits for in another one before a task of its own is placed."""

    STARTED = "started"
    """Every task that is meant to run was started."""
    HEALTHY = "healthy"
    """Every task that is meant to run is RUNNING, which includes its health check."""
    COMPLETED = "completed_successfully"
    """The job's current run has all of its completions."""


class Overlap(StrEnum):
    """What a due run does while an earlier run of the same job still goes on."""

    ALLOW = "allow"
    FORBID = "forbid"
    """Wait for it, as long as the run is not missed."""
    REPLACE = "replace"
    """Stop the earlier one."""


class Protocol(StrEnum):
    """Transport protocol of a published port."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class PublishMode(StrEnum):
    """Ingress: every node answers. Host: only the task's node."""

    INGRESS = "ingress"
    HOST = "host"


class BalanceAlgorithm(StrEnum):
    """How a gateway chooses the task for a new connection."""

    P2C = "p2c"
    """The less busy of two random tasks."""
    LEAST_CONN = "least_conn"
    ROUND_ROBIN = "round_robin"
    MAGLEV = "maglev"
    """By the client's address: the same client comes to the same task as long as that lasts."""


class DataPlane(StrEnum):
    """What takes a published port's connections to tasks."""

    USERLAND = "userland"
    """The gateways' own processes."""
    NFT = "nft"
    """The node's kernel takes them to the node's own tasks, the gateway everything else."""


class ProxyVersion(StrEnum):
    """The header that tells a task whose connection it is."""

    NONE = "none"
    V1 = "v1"
    V2 = "v2"


class EndpointMode(StrEnum):
    """How a service's name resolves."""

    VIP = "vip"
    DNSRR = "dnsrr"


class PlacementStrategy(StrEnum):
    """Which of the nodes that fit a task goes to, once the service's own tasks are as even as they can be (pack: even before that)."""

    SPREAD = "spread"
    """The one with the fewest tasks."""
    LOAD = "load"
    """The one whose reservations leave the most free."""
    PACK = "pack"
    """The one on which the reservations leave the least free."""


class MountType(StrEnum):
    """Kinds of mounts."""

    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"
    NPIPE = "npipe"
    CLUSTER = "cluster"


class LogStream(StrEnum):
    """Where a line of a task's log was written."""

    STDOUT = "stdout"
    STDERR = "stderr"
