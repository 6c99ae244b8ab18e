"""The swarm as the page draws it: a picture of nodes, services and tasks, small enough to be sent whole at each change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from services.kit.messages.control import ServiceStatus
from services.kit.model.ids import NodeId, ServiceId, SpecVersionId, spec_version_id
from services.kit.model.objects import Node, Service, SpecVersion, Task
from services.kit.model.specs import Resources
from services.kit.model.states import Reachability, TaskState
from services.web.core.json import Json
from services.web.core.objects_out import mode_word, state_word

TASKS_MAX = 4000
"""More are left out, the ended ones first."""


def picture(
    nodes: Iterable[Node],
    services: Iterable[Service],
    statuses: Iterable[ServiceStatus],
    tasks: Iterable[Task],
    specs: Iterable[SpecVersion],
) -> Json:
    """Return the picture."""
    every = tuple(nodes)
    known = {service.id: service for service in services}
    names = {node.id: node.spec.annotations.name or node.description.hostname for node in every}
    templates = {spec.id: spec for spec in specs}
    counts = {status.service_id: status for status in statuses}
    shown = sorted(tasks, key=lambda task: (not _wanted(task), task.service_id, task.slot, task.id))[:TASKS_MAX]
    managers = [node for node in every if node.manager_status is not None]
    return {
        "leader": next((names[node.id] for node in managers if node.manager_status and node.manager_status.leader), ""),
        "managers": len(managers),
        "reachable": sum(_reachable(node) for node in managers),
        "nodes": [_node(node, names[node.id], _reserved(node.id, shown, templates)) for node in every],
        "services": [_service(service, counts.get(service.id)) for service in known.values()],
        "tasks": [_task(task, known, names) for task in shown],
    }


def _wanted(task: Task) -> bool:
    return task.desired_state <= TaskState.RUNNING


def _reachable(node: Node) -> bool:
    return node.manager_status is not None and node.manager_status.reachability is Reachability.REACHABLE


def _reserved(
    node_id: NodeId, tasks: Iterable[Task], templates: Mapping[SpecVersionId, SpecVersion]
) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for task in tasks:
        spec = templates.get(spec_version_id(task.service_id, task.spec_version))
        if task.node_id == node_id and not task.status.state.terminal and spec is not None:
            needs: Resources = spec.task.resources.reservations
            total["cpus"] += needs.nano_cpus
            total["memory"] += needs.memory_bytes
    return total


def _node(node: Node, name: str, reserved: Mapping[str, int]) -> Json:
    resources = node.description.resources
    return {
        "id": node.id,
        "name": name,
        "role": node.role.value,
        "leader": node.manager_status is not None and node.manager_status.leader,
        "state": node.status.state.name.lower(),
        "availability": node.spec.availability.value,
        "addr": node.status.addr,
        "cpus": resources.nano_cpus / 1e9,
        "memory": resources.memory_bytes,
        "cpus_reserved": reserved["cpus"] / resources.nano_cpus if resources.nano_cpus else 0,
        "memory_reserved": reserved["memory"] / resources.memory_bytes if resources.memory_bytes else 0,
    }


def _service(service: Service, status: ServiceStatus | None) -> Json:
    spec = service.spec
    ports = service.endpoint.ports if service.endpoint is not None else spec.endpoint.ports
    container = spec.task.container
    update = service.update_status
    return {
        "id": service.id,
        "name": spec.annotations.name,
        "mode": mode_word(spec),
        "running": status.running if status is not None else 0,
        "desired": status.desired if status is not None else 0,
        "runs": container.image or f"{spec.task.driver}: {' '.join((*container.command, *container.args))}"[:80],
        "ports": ", ".join(f"{each.published_port or '?'}→{each.target_port}/{each.protocol.value}" for each in ports),
        "update": "" if update is None else f"{update.state.value} {update.message}".strip(),
    }


def _task(task: Task, services: Mapping[ServiceId, Service], names: Mapping[NodeId, str]) -> Json:
    service = services.get(task.service_id)
    status = task.status
    return {
        "id": task.id,
        "service": task.service_id if service is None else service.spec.annotations.name,
        "slot": task.slot,
        "node": task.node_id or "",
        "node_name": names.get(task.node_id, "") if task.node_id else "",
        "state": state_word(status.state),
        "wanted": _wanted(task),
        "why": status.error or (status.message if status.state is TaskState.PENDING else ""),
        "since": status.timestamp,
    }
