"""What equal tasks ask of a node: the tasks of one version of a service are planned together.

Made by the scheduler from a stored spec version, read by the filters and planners. What must stay true: a group never changes; a new
version of a service is a new group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.dispatcher.core.fleet.dimension import size_class
from services.kit.model.constraints import Constraint
from services.kit.model.ids import ServiceId
from services.kit.model.specs import Platform
from services.kit.model.states import PlacementStrategy, Protocol

GroupKey = tuple[ServiceId, int]
"""Service and spec version."""
HostPort = tuple[int, Protocol]
CPU = "cpu"
MEMORY = "memory"
GENERIC = "generic/"
"""Prefix of the dimensions of generic resources."""


@dataclass(frozen=True, slots=True)
class Need:
    """An amount of one resource."""

    resource: str
    amount: int
    size: int
    """Size class of the amount."""


def needs_of(amounts: Mapping[str, int]) -> tuple[Need, ...]:
    """Return the needs that are more than nothing."""
    return tuple(Need(resource, amount, size_class(amount)) for resource, amount in amounts.items() if amount > 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """The demand that all tasks of a group share."""

    service: ServiceId
    version: int = 1
    name: str = ""
    """Name of the service, by which others ask for its company or to be spared it."""
    needs: tuple[Need, ...] = ()
    drivers: tuple[str, ...] = ()
    """Drivers and plugins that the node must have, in the words of ``facts.py``."""
    constraints: tuple[Constraint, ...] = ()
    platforms: tuple[Platform, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    max_replicas: int = 0
    """Most tasks of the service on a node; 0 means without limit."""
    preferences: tuple[str, ...] = ()
    """Labels over whose values the tasks are spread, the most important one first."""
    affinity: tuple[str, ...] = ()
    """Services of which a task must be on the node."""
    anti_affinity: tuple[str, ...] = ()
    """Services of which no task may be on the node."""
    priority: int = 0
    strategy: PlacementStrategy = PlacementStrategy.SPREAD
    key: GroupKey = field(init=False)
    signature: tuple[object, ...] = field(init=False)
    """Equal for groups that fit on the same rows, but for what depends on the service itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.service, self.version))
        own = (self.service, self.max_replicas) if self.max_replicas else ()
        asked = (self.needs, self.drivers, self.constraints, self.platforms, self.host_ports)
        object.__setattr__(self, "signature", (*asked, self.affinity, self.anti_affinity, own))

    def amount(self, resource: str) -> int:
        """Return how much a task needs of a resource."""
        return next((need.amount for need in self.needs if need.resource == resource), 0)


def resources_of(groups: Iterable[Group]) -> set[str]:
    """Return the resources that any of these groups needs."""
    return {need.resource for group in groups for need in group.needs}
