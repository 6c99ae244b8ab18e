"""What all tasks of one spec version ask of a node, read once from the stored template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from services.dispatcher.core.fleet.facts import driver_able, plugin_able
from services.dispatcher.core.fleet.group import CPU, GENERIC, MEMORY, Group, HostPort, Need, needs_of
from services.kit.model.constraints import parse_constraints
from services.kit.model.ids import NetworkId
from services.kit.model.objects import Network, SpecVersion
from services.kit.model.specs import EndpointSpec, Resources, TaskSpec
from services.kit.model.states import MountType, PublishMode


def group_of(spec: SpecVersion, networks: Mapping[NetworkId, Network]) -> Group:
    """Return the group of the tasks of this version."""
    placement, name = spec.task.placement, spec.annotations.name
    alone = name in placement.anti_affinity
    return Group(
        service=spec.service_id,
        version=spec.version,
        name=name,
        needs=_needs(spec.task.resources.reservations),
        drivers=tuple(_abilities(spec.task, networks)),
        constraints=parse_constraints(placement.constraints),
        platforms=placement.platforms,
        host_ports=tuple(_host_ports(spec.endpoint)),
        max_replicas=1 if alone else placement.max_replicas,
        preferences=tuple(preference.descriptor for preference in placement.preferences),
        affinity=placement.affinity,
        anti_affinity=tuple(other for other in placement.anti_affinity if other != name),
        priority=placement.priority,
        strategy=placement.strategy,
    )


def _needs(reserved: Resources) -> tuple[Need, ...]:
    amounts = {CPU: reserved.nano_cpus, MEMORY: reserved.memory_bytes}
    for resource in reserved.generic:
        kind = GENERIC + resource.kind
        amounts[kind] = amounts.get(kind, 0) + resource.count
    return needs_of(amounts)


def _abilities(task: TaskSpec, networks: Mapping[NetworkId, Network]) -> Iterator[str]:
    """Yield what the node must be able to do: the task's driver, and the plugins for its volumes, networks and log."""
    yield driver_able(task.driver)
    for mount in task.container.mounts:
        if mount.type is MountType.VOLUME and mount.volume_driver not in {"", "local"}:
            yield plugin_able("Volume", mount.volume_driver)
    for attachment in task.networks:
        network = networks.get(attachment.target)
        if network is not None and network.spec.driver.name:
            yield plugin_able("Network", network.spec.driver.name)
    if task.log_driver.name not in {"", "none"}:
        yield plugin_able("Log", task.log_driver.name)


def _host_ports(endpoint: EndpointSpec) -> Iterator[HostPort]:
    for port in endpoint.ports:
        if port.publish_mode is PublishMode.HOST and port.published_port:
            yield port.published_port, port.protocol
