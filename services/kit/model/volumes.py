"""Cluster volumes: storage that a volume driver makes once for the swarm and brings to the nodes whose tasks mount it.

A task asks for one with a mount of type ``cluster``, whose source is a volume's name or ``group:<name>``. The scheduler chooses the
volume (``Task.volumes``); the dispatcher's volume loop makes it, lets it be used on the task's node and takes it back (``Publication``);
the node's agent stages and publishes it. docs/volume-drivers.md says what a driver is.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from services.kit.model.ids import NodeId, SecretId, VolumeId
from services.kit.model.specs import Annotations, DriverConfig
from services.kit.model.value import Value

GROUP = "group:"
"""Before the name of a group in a mount's source."""


class AccessScope(StrEnum):
    """On how many nodes a volume may be used at the same time."""

    SINGLE_NODE = "single"
    MULTI_NODE = "multi"


class AccessSharing(StrEnum):
    """What tasks may share a volume."""

    NONE = "none"
    """One task at a time."""
    READ_ONLY = "readonly"
    """Any number, all of which only read."""
    ONE_WRITER = "onewriter"
    """Any number, of which one may write."""
    ALL = "all"


class VolumeAvailability(StrEnum):
    """Whether tasks may use a volume."""

    ACTIVE = "active"
    PAUSE = "pause"
    """No new ones."""
    DRAIN = "drain"
    """None: those that do are stopped."""


class PublicationState(IntEnum):
    """How far a volume is on its way to a node, or back."""

    PENDING_PUBLISH = 0
    """The driver has to let the node use it."""
    PUBLISHED = 1
    """The node may use it."""
    PENDING_NODE_UNPUBLISH = 2
    """The node has to take it down."""
    PENDING_UNPUBLISH = 3
    """The driver has to take it away from the node; then the publication is gone."""


class AccessMode(Value, frozen=True, kw_only=True):
    """How a volume may be used."""

    scope: AccessScope = AccessScope.SINGLE_NODE
    sharing: AccessSharing = AccessSharing.NONE
    block: bool = False
    """It is a device, not a file system."""
    fs_type: str = ""
    mount_flags: tuple[str, ...] = ()


class VolumeSecret(Value, frozen=True, kw_only=True):
    """A secret that the driver is given under a name of its own."""

    key: str
    secret_id: SecretId


class Topology(Value, frozen=True, kw_only=True):
    """A place: for example ``region: r1`` with ``rack: 7``."""

    segments: dict[str, str] = {}


class TopologyRequirement(Value, frozen=True, kw_only=True):
    """Where a volume must be usable, and where it should be."""

    requisite: tuple[Topology, ...] = ()
    preferred: tuple[Topology, ...] = ()


class CapacityRange(Value, frozen=True, kw_only=True):
    """How large a volume is to be; 0 means no bound."""

    required_bytes: int = 0
    limit_bytes: int = 0


class VolumeSpec(Value, frozen=True, kw_only=True):
    """What a user wants of a cluster volume. Only labels and availability change."""

    annotations: Annotations
    group: str = ""
    """Volumes of one group stand in for one another."""
    driver: DriverConfig
    access_mode: AccessMode = AccessMode()
    secrets: tuple[VolumeSecret, ...] = ()
    accessibility: TopologyRequirement = TopologyRequirement()
    capacity: CapacityRange = CapacityRange()
    availability: VolumeAvailability = VolumeAvailability.ACTIVE


class VolumeInfo(Value, frozen=True, kw_only=True):
    """What the driver said when it had made the volume."""

    volume_id: str
    """The driver's own id."""
    capacity_bytes: int = 0
    context: dict[str, str] = {}
    """For the driver on the node."""
    accessible_topology: tuple[Topology, ...] = ()
    """Usable where all segments of one of these are the node's; empty means everywhere."""


class Publication(Value, frozen=True, kw_only=True):
    """A volume on one node."""

    node_id: NodeId
    state: PublicationState = PublicationState.PENDING_PUBLISH
    context: dict[str, str] = {}
    """From the driver's controller to the driver on the node."""
    message: str = ""
    """What went wrong last."""


class VolumeDriverNode(Value, frozen=True, kw_only=True):
    """A volume driver on a node, as the agent found it."""

    name: str
    node_id: str = ""
    """The driver's own name for the node."""
    volumes_max: int = 0
    """0 means any number."""
    topology: Topology = Topology()


class VolumeUse(Value, frozen=True, kw_only=True):
    """Which volume a task was given for which of its mounts."""

    volume_id: VolumeId
    source: str
    """The mount's, as the user wrote it."""
    target: str
