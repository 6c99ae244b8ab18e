"""The rows of every list: pure, so that golden files can hold them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from services.cli.ages import ago
from services.cli.output import Cell, Row, Style
from services.kit.messages.control import ServiceStatus
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.objects import Cluster, Node, Service, Task
from services.kit.model.specs import Global, GlobalJob, PortConfig, Replicated, ReplicatedJob, ServiceMode, TaskSpec
from services.kit.model.states import Availability, NodeState, PublishMode, Reachability, TaskState

SHORT_ID = 12
RUNS_MAX = 44

CLUSTER_HEADER = ("ID", "NAME", "CREATED")
NODE_HEADER = ("ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "DRIVERS")
SERVICE_HEADER = ("ID", "NAME", "MODE", "REPLICAS", "RUNS", "PORTS")
TASK_HEADER = ("ID", "NAME", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS")


def short(object_id: str, *, whole: bool) -> str:
    """Return an id as lists show it."""
    return object_id if whole else object_id[:SHORT_ID]


def cluster_rows(clusters: Iterable[Cluster], *, now: float, whole: bool) -> list[Row]:
    """Return the rows of ``cluster ls``."""
    return [
        (short(cluster.id, whole=whole), cluster.spec.annotations.name, ago(cluster.meta.created_at, now))
        for cluster in clusters
    ]


def node_rows(nodes: Iterable[Node], *, here: str, whole: bool) -> list[Row]:
    """Return the rows of ``node ls``; the node that answers is marked with a star."""
    return [
        (
            short(node.id, whole=whole) + (" *" if node.id == here else ""),
            node.description.hostname,
            Cell(node.status.state.name.capitalize(), _node_style(node)),
            node.spec.availability.value.capitalize(),
            manager_words(node),
            ", ".join(node.description.drivers),
        )
        for node in nodes
    ]


def _node_style(node: Node) -> Style:
    if node.status.state is not NodeState.READY:
        return Style.BAD
    return Style.GOOD if node.spec.availability is Availability.ACTIVE else Style.WAITING


def manager_words(node: Node) -> str:
    """Return a manager's part in raft, nothing for a worker."""
    if node.manager_status is None:
        return ""
    if node.manager_status.leader:
        return "Leader"
    words = {Reachability.REACHABLE: "Reachable", Reachability.UNREACHABLE: "Unreachable"}
    return words.get(node.manager_status.reachability, "Unknown")


def service_rows(services: Iterable[Service], statuses: Iterable[ServiceStatus], *, whole: bool) -> list[Row]:
    """Return the rows of ``service ls``."""
    counts = {status.service_id: status for status in statuses}
    return [
        (
            short(service.id, whole=whole),
            service.spec.annotations.name,
            mode_words(service.spec.mode),
            _replicas(service, counts.get(service.id)),
            runs_words(service.spec.task, whole=whole),
            ports_words(_ports(service)),
        )
        for service in services
    ]


def mode_words(mode: ServiceMode) -> str:
    """Return the mode of a service in words."""
    match mode:
        case Replicated():
            return "replicated"
        case Global():
            return "global"
        case ReplicatedJob():
            return "replicated job"
        case GlobalJob():
            return "global job"


def _replicas(service: Service, status: ServiceStatus | None) -> Cell:
    if status is None:
        return Cell("?", Style.WAITING)
    style = Style.GOOD if status.running >= status.desired else Style.WAITING
    match service.spec.mode:
        case ReplicatedJob(total_completions=total):
            return Cell(f"{status.running}/{status.desired} ({status.completed}/{total} completed)")
        case GlobalJob():
            return Cell(f"{status.running}/{status.desired} ({status.completed} completed)")
        case _:
            return Cell(f"{status.running}/{status.desired}", style)


def runs_words(task: TaskSpec, *, whole: bool) -> str:
    """Return what a task runs: its image, or its driver and command."""
    if task.container.image:
        return task.container.image
    command = shlex.join((*task.container.command, *task.container.args))
    text = f"{task.driver}: {command}" if command else task.driver
    return text if whole or len(text) <= RUNS_MAX else text[: RUNS_MAX - 1] + "…"


def _ports(service: Service) -> tuple[PortConfig, ...]:
    return service.endpoint.ports if service.endpoint is not None else service.spec.endpoint.ports


def ports_words(ports: Iterable[PortConfig]) -> str:
    """Return published ports: ``*:8080->80/tcp``, with ``host`` for those that only the task's node answers."""
    shown = []
    for port in ports:
        where = "host" if port.publish_mode is PublishMode.HOST else "*"
        shown.append(f"{where}:{port.published_port or '?'}->{port.target_port}/{port.protocol.value}")
    return ", ".join(shown)


def task_name(task: Task, service_name: str, nodes: Mapping[NodeId, str]) -> str:
    """Return a task's name: its service and its slot, or its node for tasks of a global service."""
    place = str(task.slot) if task.slot else (nodes.get(task.node_id, task.node_id) if task.node_id else "-")
    return f"{service_name}.{place}"


def task_rows(
    tasks: Iterable[Task],
    *,
    names: Mapping[ServiceId, str],
    nodes: Mapping[NodeId, str],
    now: float,
    whole: bool,
) -> list[Row]:
    """Return the rows of ``service ps`` and ``task ls``: by service and slot, an older task of a slot under its successor."""
    rows: list[Row] = []
    above: tuple[str, int, str] | None = None
    for task in in_order(tasks, names):
        key = _slot_key(task, names)
        name = task_name(task, names.get(task.service_id, task.service_id), nodes)
        rows.append(
            (
                short(task.id, whole=whole),
                rf" \_ {name}" if key == above else name,
                nodes.get(task.node_id, task.node_id) if task.node_id else "",
                task.desired_state.name.capitalize(),
                Cell(
                    f"{task.status.state.name.capitalize()} {ago(task.status.timestamp, now)}",
                    state_style(task.status.state),
                ),
                Cell(task.status.error or _why_waiting(task), Style.BAD if task.status.error else Style.WAITING),
                _listening(task),
            )
        )
        above = key
    return rows


def in_order(tasks: Iterable[Task], names: Mapping[ServiceId, str]) -> tuple[Task, ...]:
    """Return tasks as they are listed: by service and slot, the wanted and newest of a slot first."""
    return tuple(sorted(tasks, key=lambda task: (*_slot_key(task, names), _newest_first(task))))


def _slot_key(task: Task, names: Mapping[ServiceId, str]) -> tuple[str, int, str]:
    return names.get(task.service_id, task.service_id), task.slot, "" if task.slot else task.node_id or ""


def _newest_first(task: Task) -> tuple[bool, float, str]:
    return task.desired_state > TaskState.RUNNING, -task.meta.created_at, task.id


def _why_waiting(task: Task) -> str:
    """Say why a task is not placed; later states speak for themselves."""
    return task.status.message if task.status.state == TaskState.PENDING else ""


def _listening(task: Task) -> str:
    return ", ".join(f"{port.port}->{port.target_port}/{port.protocol}" for port in task.status.ports)


def state_style(state: TaskState) -> Style:
    """Return how a task's state stands out."""
    if state == TaskState.RUNNING:
        return Style.GOOD
    if state in {TaskState.FAILED, TaskState.REJECTED, TaskState.ORPHANED}:
        return Style.BAD
    return Style.FAINT if state.terminal else Style.WAITING
