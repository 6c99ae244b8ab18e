"""A task with everything a driver needs to run it: what a controller is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.agent.core.ports import PortNeed, port_needs
from services.agent.core.templates import Scope, expand
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Config, Secret, SpecVersion, Task
from services.kit.model.specs import ContainerSpec, Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a task may know of its node."""

    id: NodeId
    hostname: str
    platform: Platform


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
    secrets: tuple[Secret, ...] = field(default=(), repr=False)
    """The secrets that the container refers to."""
    configs: tuple[Config, ...] = field(default=(), repr=False)
    """The configs that the container refers to."""

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
) -> TaskBundle:
    """Fill in the templates and put everything together; raises TemplateError."""
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
    return TaskBundle(
        task=task,
        spec=spec,
        container=expand(spec.task.container, scope),
        name=name,
        node=node,
        ports=port_needs(spec),
        secrets=secrets,
        configs=configs,
    )
