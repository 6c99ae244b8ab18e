"""The swarm in numbers, as Prometheus reads them; SwarmKit's names where it has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.kit.model.objects import Node, Service, Task
from services.kit.model.states import NodeState, Role, TaskState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is counted."""

    node_id: str
    cluster_id: str
    nodes: tuple[Node, ...]
    services: tuple[Service, ...]
    tasks: tuple[Task, ...]
    secrets: int
    configs: int


def exposition(picture: Picture) -> str:
    """Return the text that Prometheus reads."""
    own = next((node for node in picture.nodes if node.id == picture.node_id), None)
    leads = own is not None and own.manager_status is not None and own.manager_status.leader
    tasks = Counter(task.status.state for task in picture.tasks)
    nodes = Counter(node.status.state for node in picture.nodes)
    running = Counter(task.service_id for task in picture.tasks if task.status.state is TaskState.RUNNING)
    lines = [
        *_metric("swarm_manager_leader", "Whether this manager leads", [({}, int(leads))]),
        *_metric("swarm_manager_nodes", "Nodes by state", [({"state": s.name.lower()}, nodes[s]) for s in NodeState]),
        *_metric(
            "swarm_manager_tasks_total",
            "Tasks by observed state",
            [({"state": s.name.lower()}, tasks[s]) for s in TaskState if s is not TaskState.REMOVE],
        ),
        *_metric("swarm_manager_services_total", "Services", [({}, len(picture.services))]),
        *_metric("swarm_manager_secrets_total", "Secrets", [({}, picture.secrets)]),
        *_metric("swarm_manager_configs_total", "Configs", [({}, picture.configs)]),
        *_metric("swarm_node_info", "This node", [({"swarm_id": picture.cluster_id, "node_id": picture.node_id}, 1)]),
        *_metric("swarm_node_manager", "Whether this node is a manager", [({}, int(_manages(own)))]),
        *_metric(
            "swarmbus_managers_reachable",
            "Managers that answer their peers",
            [({}, sum(_reachable(node) for node in picture.nodes))],
        ),
        *_metric(
            "swarmbus_service_tasks_running",
            "Running tasks by service",
            [({"service": each.spec.annotations.name}, running[each.id]) for each in picture.services],
        ),
        *_metric(
            "swarmbus_certificate_expiry_seconds",
            "When a node's certificate runs out, in seconds since the epoch",
            [({"node": node.description.hostname}, round(node.certificate.not_after)) for node in picture.nodes],
        ),
    ]
    return "\n".join(lines) + "\n"


def _manages(node: Node | None) -> bool:
    return node is not None and node.role is Role.MANAGER


def _reachable(node: Node) -> bool:
    return node.manager_status is not None and node.manager_status.reachability.value == "reachable"


def _metric(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], int]]) -> list[str]:
    lines = [f"# HELP {name} {text}.", f"# TYPE {name} gauge"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return lines


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
