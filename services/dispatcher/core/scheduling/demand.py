"""What all tasks of one spec version ask of a node, read once from the stored template."""

from __future__ import annotations

from dataclasses import dataclass

from services.kit.model.constraints import Constraint, parse_constraints
from services.kit.model.ids import ServiceId
from services.kit.model.objects import SpecVersion
from services.kit.model.specs import GenericResource, Platform
from services.kit.model.states import Protocol, PublishMode

Group = tuple[ServiceId, int]
"""Service and spec version: tasks of a group are placed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The demand of a group; shared by all of its tasks."""

    group: Group
    driver: str
    nano_cpus: int
    memory_bytes: int
    generic: tuple[GenericResource, ...]
    constraints: tuple[Constraint, ...]
    platforms: tuple[Platform, ...]
    host_ports: tuple[tuple[int, Protocol], ...]
    max_replicas: int
    preferences: tuple[str, ...]

    @property
    def service(self) -> ServiceId:
        """Whose tasks these are."""
        return self.group[0]


def demand_of(spec: SpecVersion) -> Demand:
    """Return what tasks of this version ask for."""
    placement, reserved = spec.task.placement, spec.task.resources.reservations
    return Demand(
        group=(spec.service_id, spec.version),
        driver=spec.task.driver,
        nano_cpus=reserved.nano_cpus,
        memory_bytes=reserved.memory_bytes,
        generic=reserved.generic,
        constraints=parse_constraints(placement.constraints),
        platforms=placement.platforms,
        host_ports=tuple(
            (port.published_port, port.protocol)
            for port in spec.endpoint.ports
            if port.publish_mode is PublishMode.HOST and port.published_port
        ),
        max_replicas=placement.max_replicas,
        preferences=tuple(preference.descriptor for preference in placement.preferences),
    )
