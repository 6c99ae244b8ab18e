"""A task with everything a driver needs to run it: what a controller is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import msgspec

from services.agent.core.ports import PortNeed, port_needs
from services.agent.core.resources import DeviceMap, dealt_devices
from services.agent.core.templates import PayloadScope, Scope, expand, render_payload
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Config, Network, Secret, SpecVersion, Task
from services.kit.model.specs import ConfigSpec, ContainerSpec, FileTarget, Mount, Platform, SecretSpec
from services.kit.model.states import MountType


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a task may know of its node."""

    id: NodeId
    hostname: str
    platform: Platform
    devices: DeviceMap = field(default_factory=dict)
    """Which devices go with which generic resources of this node."""


class PayloadKind(StrEnum):
    """What a file holds."""

    SECRET = "secret"
    CONFIG = "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A file that a task sees."""

    kind: PayloadKind
    target: FileTarget
    data: bytes = field(repr=False)
    sensitive: bool
    """It is a secret or has one in it: in memory only, never on a disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A task's place on a network of the swarm."""

    network: Network
    addresses: tuple[str, ...] = ()
    """The task's own, one for each family."""
    aliases: tuple[str, ...] = ()
    """Names under which other tasks of the network find it, the service's among them."""
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskBundle:
    """A task with all that it depends on."""

    task: Task
    spec: SpecVersion
    """As the user wrote it; ``annotations`` are the service's. Take what runs from ``container``."""
    container: ContainerSpec
    """``spec.task.container`` with its templates filled in, except port marks: see ``core.ports.fill_ports``."""
    name: str
    """Display name: ``service.slot.task-id``, or ``service.node-id.task-id`` for tasks without slot."""
    node: NodeFacts
    ports: tuple[PortNeed, ...] = ()
    payloads: tuple[Payload, ...] = field(default=(), repr=False)
    """The secrets and configs that the task sees as files, with their templates filled in, except port marks: see ``core.ports.fill_marks``."""

    attachments: tuple[Attachment, ...] = ()
    """The networks of the swarm that the task is on, in the template's order."""
    devices: tuple[str, ...] = ()
    """Devices that come with the generic resources the task was dealt, in the form of ``container.devices``."""

    @property
    def id(self) -> TaskId:
        """The task's id, under which a driver finds everything again."""
        return self.task.id


def display_name(task: Task, spec: SpecVersion) -> str:
    """Return the name under which people see a task."""
    return f"{spec.annotations.name}.{task.slot or task.node_id}.{task.id}"


def make_bundle(
    task: Task,
    spec: SpecVersion,
    node: NodeFacts,
    *,
    secrets: tuple[Secret, ...] = (),
    configs: tuple[Config, ...] = (),
    volume_paths: Mapping[str, str] = MappingProxyType({}),
    networks: tuple[Network, ...] = (),
) -> TaskBundle:
    """Fill in the templates and put everything together; raises TemplateError.

    ``volume_paths`` says where the task's cluster volumes are on this node, by the target of their mounts; drivers see them as bind mounts.
    """
    name = display_name(task, spec)
    scope = Scope(
        task_id=task.id,
        task_name=name,
        task_slot=str(task.slot or node.id),
        service_id=task.service_id,
        service_name=spec.annotations.name,
        service_labels=spec.annotations.labels,
        node_id=node.id,
        node_hostname=node.hostname,
        node_platform=node.platform,
        port_names=frozenset(port.name for port in spec.endpoint.ports if port.name),
    )
    container = _with_volumes(expand(spec.task.container, scope), volume_paths)
    return TaskBundle(
        task=task,
        spec=spec,
        container=container,
        name=name,
        node=node,
        ports=port_needs(spec),
        attachments=_attachments(task, spec, networks),
        devices=dealt_devices(task.generic, node.devices),
        payloads=_payloads(container, scope, secrets, configs),
    )


def _with_volumes(container: ContainerSpec, paths: Mapping[str, str]) -> ContainerSpec:
    if not paths:
        return container
    mounts = tuple(
        Mount(type=MountType.BIND, source=paths[mount.target], target=mount.target, read_only=mount.read_only)
        if mount.type is MountType.CLUSTER and mount.target in paths
        else mount
        for mount in container.mounts
    )
    return msgspec.structs.replace(container, mounts=mounts)


def _attachments(task: Task, spec: SpecVersion, networks: tuple[Network, ...]) -> tuple[Attachment, ...]:
    known = {network.id: network for network in networks}
    dealt = {each.network_id: each.addresses for each in task.networks}
    service = spec.annotations.name
    return tuple(
        Attachment(
            network=known[wish.target],
            addresses=dealt.get(wish.target, ()),
            aliases=tuple(dict.fromkeys((service, f"tasks.{service}", *wish.aliases))),
            options=wish.driver_options,
        )
        for wish in spec.task.networks
        if wish.target in known
    )


def _payloads(
    container: ContainerSpec, scope: Scope, secrets: tuple[Secret, ...], configs: tuple[Config, ...]
) -> tuple[Payload, ...]:
    secrets_by_id = {secret.id: secret.spec for secret in secrets}
    configs_by_id = {config.id: config.spec for config in configs}
    wanted_secrets = [
        (use, secrets_by_id[use.secret_id]) for use in container.secrets if use.secret_id in secrets_by_id
    ]
    wanted_configs = [
        (use.config_name, use.target, configs_by_id[use.config_id])
        for use in container.configs
        if use.target is not None and use.config_id in configs_by_id
    ]
    env = dict(entry.partition("=")[::2] for entry in container.env)
    secret_data = {use.target.name: spec.data for use, spec in wanted_secrets}
    config_data = {target.name: spec.data for _, target, spec in wanted_configs}

    def rendered(kind: PayloadKind, name: str, target: FileTarget, spec: SecretSpec | ConfigSpec) -> Payload:
        payload_scope = PayloadScope(scope=scope, env=env, secrets=secret_data, configs=config_data)
        data = render_payload(spec.data, spec.templating, payload_scope, f"{kind} {name}")
        return Payload(
            kind=kind,
            target=target,
            data=data,
            sensitive=kind is PayloadKind.SECRET or payload_scope.used_secret,
        )

    return (
        *(rendered(PayloadKind.SECRET, use.secret_name, use.target, spec) for use, spec in wanted_secrets),
        *(rendered(PayloadKind.CONFIG, name, target, spec) for name, target, spec in wanted_configs),
    )
