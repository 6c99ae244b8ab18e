"""The page of one object (``inspect``): pure, so that golden files can hold it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from services.cli.ages import size, span, timestamp
from services.cli.tables import manager_words, mode_words, ports_words, task_name
from services.kit.messages.control import TaskReply
from services.kit.model.ids import NodeId
from services.kit.model.objects import Cluster, NetworkAddresses, Node, RootCa, Service, TokenLimits
from services.kit.model.specs import (
    ContainerSpec,
    Placement,
    Replicated,
    ReplicatedJob,
    Resources,
    RestartPolicy,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import RestartCondition
from services.kit.model.tokens import root_digest

Field = tuple[str, object]
"""A label and its value; an empty value leaves the line out, a list of fields is a block of its own."""

LABEL_WIDTH = 22


def page_lines(fields: Iterable[Field], depth: int = 0) -> list[str]:
    """Return the lines of a page."""
    lines: list[str] = []
    indent = "  " * depth
    for label, value in fields:
        if value in ("", None, (), [], {}):
            continue
        if isinstance(value, list):
            block = page_lines(value, depth + 1)
            if block:
                lines += [f"{indent}{label}:", *block]
        elif isinstance(value, tuple):
            lines.append(f"{indent}{label}:")
            lines += [f"{indent}  {item}" for item in value]
        else:
            lines.append(f"{indent}{label + ':':<{LABEL_WIDTH - len(indent)}} {value}".rstrip())
    return lines


def _labels(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in sorted(labels.items()))


def cluster_page(cluster: Cluster) -> list[str]:
    """Return the page of the cluster, with its join tokens."""
    spec, tokens = cluster.spec, cluster.root_ca.join_tokens
    pools = spec.networking
    return page_lines(
        [
            ("ID", cluster.id),
            ("Name", spec.annotations.name),
            ("Labels", _labels(spec.annotations.labels)),
            ("Created", timestamp(cluster.meta.created_at)),
            ("Version", cluster.meta.version),
            ("Task history", f"{spec.orchestration.task_history_retention_limit} tasks per slot"),
            ("Heartbeat period", span(spec.dispatcher.heartbeat_period_s)),
            ("Certificate expiry", span(spec.ca.node_cert_expiry_s)),
            ("Autolock", "yes" if spec.auto_lock_managers else "no"),
            ("Address pools", f"{', '.join(pools.default_address_pools)} in subnets of /{pools.subnet_size}"),
            ("Root digest", cluster.root_ca.digest),
            ("Root rotation", _rotation_words(cluster.root_ca)),
            (
                "Join tokens",
                [
                    ("worker", _token_words(tokens.worker, tokens.worker_limits)),
                    ("manager", _token_words(tokens.manager, tokens.manager_limits)),
                ],
            ),
        ]
    )


def _rotation_words(root: RootCa) -> str:
    if root.rotation is None:
        return ""
    return f"on the way to {root_digest(root.rotation.ca_cert)}: every node has to renew its certificate"


def _token_words(token: str, limits: TokenLimits) -> str:
    until = f" until {timestamp(limits.expires_at)}" if limits.expires_at else ""
    times = "" if limits.uses_left is None else f" for {limits.uses_left} more"
    return f"{token}{until}{times}"


def node_page(node: Node) -> list[str]:
    """Return the page of a node."""
    manager: list[Field] = []
    if node.manager_status is not None:
        manager = [
            ("Status", manager_words(node)),
            ("Raft address", node.manager_status.raft_addr),
            ("Remote API", node.remote_addr),
        ]
    return page_lines(
        [
            ("ID", node.id),
            ("Hostname", node.description.hostname),
            ("Labels", _labels(node.spec.annotations.labels)),
            ("Joined", timestamp(node.meta.created_at)),
            ("Role", node.role.value),
            ("Wanted role", node.spec.desired_role.value if node.spec.desired_role is not node.role else ""),
            ("State", node.status.state.name.capitalize()),
            ("Message", node.status.message),
            ("Availability", node.spec.availability.value.capitalize()),
            ("Address", node.status.addr),
            ("Manager", manager),
            (
                "Platform",
                "/".join(filter(None, (node.description.platform.os, node.description.platform.architecture))),
            ),
            ("Resources", _resources(node.description.resources)),
            ("Drivers", ", ".join(node.description.drivers)),
            ("Not enforced here", ", ".join(node.description.unenforced)),
            ("Engine", f"{node.description.engine.name} {node.description.engine.version}".strip()),
            ("Engine labels", _labels(node.description.engine.labels)),
            ("Certificate until", timestamp(node.certificate.not_after) if node.certificate.not_after else ""),
        ]
    )


def service_page(service: Service) -> list[str]:
    """Return the page of a service."""
    spec = service.spec
    update: list[Field] = []
    if service.update_status is not None:
        update = [
            ("State", service.update_status.state.value),
            ("Started", timestamp(service.update_status.started_at)),
            ("Completed", timestamp(service.update_status.completed_at) if service.update_status.completed_at else ""),
            ("Message", service.update_status.message),
        ]
    ports = service.endpoint.ports if service.endpoint is not None else spec.endpoint.ports
    return page_lines(
        [
            ("ID", service.id),
            ("Name", spec.annotations.name),
            ("Labels", _labels(spec.annotations.labels)),
            ("Created", timestamp(service.meta.created_at)),
            ("Updated", timestamp(service.meta.updated_at)),
            ("Version", service.meta.version),
            ("Mode", mode_words(spec.mode)),
            ("Replicas", spec.mode.replicas if isinstance(spec.mode, Replicated) else ""),
            ("Completions", spec.mode.total_completions if isinstance(spec.mode, ReplicatedJob) else ""),
            ("Update status", update),
            *template_fields(spec.task),
            ("Update", _update(spec.update)),
            ("Rollback", _update(spec.rollback)),
            ("Endpoint mode", spec.endpoint.mode.value),
            ("Ports", ports_words(ports)),
            ("Networks", tuple(each.target for each in spec.task.networks)),
            ("Virtual addresses", _addresses(() if service.endpoint is None else service.endpoint.virtual_ips)),
        ]
    )


def _addresses(held: Iterable[NetworkAddresses]) -> tuple[str, ...]:
    return tuple(f"{', '.join(each.addresses)} in network {each.network_id}" for each in held)


def task_page(reply: TaskReply, *, service_name: str, nodes: Mapping[NodeId, str]) -> list[str]:
    """Return the page of a task."""
    task = reply.task
    status = task.status
    ports = tuple(f"{port.port} on the node for {port.target_port}/{port.protocol}" for port in status.ports)
    return page_lines(
        [
            ("ID", task.id),
            ("Name", task_name(task, service_name, nodes)),
            ("Service", f"{service_name} ({task.service_id})"),
            ("Slot", task.slot or ""),
            ("Node", f"{nodes.get(task.node_id, task.node_id)} ({task.node_id})" if task.node_id else "none yet"),
            ("Created", timestamp(task.meta.created_at)),
            ("Desired state", task.desired_state.name.capitalize()),
            (
                "Status",
                [
                    ("State", status.state.name.capitalize()),
                    ("Since", timestamp(status.timestamp)),
                    ("Message", status.message),
                    ("Error", status.error),
                    ("Exit code", "" if status.exit_code is None else str(status.exit_code)),
                    ("Process id", status.pid or ""),
                    ("Container", status.container_id),
                    ("Ports", ports),
                ],
            ),
            ("Addresses", _addresses(task.networks)),
            ("Spec version", task.spec_version),
            *(template_fields(reply.spec.task) if reply.spec is not None else ()),
        ]
    )


def template_fields(task: TaskSpec) -> list[Field]:
    """Return what a task's template says."""
    return [
        ("Driver", task.driver),
        ("Runs", _container(task.container)),
        ("Limits", _resources(task.resources.limits)),
        ("Reservations", _resources(task.resources.reservations)),
        ("Placement", _placement(task.placement)),
        ("Restart", _restart(task.restart)),
        ("Forced updates", task.force_update or ""),
    ]


def _container(container: ContainerSpec) -> list[Field]:
    mounts = tuple(
        f"{m.type.value} {m.source or '-'} at {m.target}{' (read-only)' if m.read_only else ''}"
        for m in container.mounts
    )
    health = container.health_check
    return [
        ("Image", container.image),
        ("Command", shlex.join(container.command)),
        ("Arguments", shlex.join(container.args)),
        ("Environment", tuple(container.env)),
        ("Directory", container.dir),
        ("User", container.user),
        ("Hostname", container.hostname),
        ("Labels", _labels(container.labels)),
        ("Mounts", mounts),
        ("Health check", "" if health is None else f"{shlex.join(health.test)} every {span(health.interval_s)}"),
        ("Stop signal", container.stop_signal),
        ("Stop grace period", span(container.stop_grace_period_s)),
    ]


def _resources(resources: Resources) -> list[Field]:
    generic = tuple(f"{item.kind}={','.join(item.names) or item.count}" for item in resources.generic)
    return [
        ("Processors", f"{resources.nano_cpus / 1e9:g}" if resources.nano_cpus else ""),
        ("Memory", size(resources.memory_bytes) if resources.memory_bytes else ""),
        ("Generic", generic),
    ]


def _placement(placement: Placement) -> list[Field]:
    return [
        ("Constraints", placement.constraints),
        ("Spread over", tuple(preference.descriptor for preference in placement.preferences)),
        ("Most per node", placement.max_replicas or ""),
    ]


def _restart(restart: RestartPolicy) -> list[Field]:
    if restart.condition is RestartCondition.NONE:
        return [("Condition", "none")]
    return [
        ("Condition", restart.condition.value),
        ("Delay", span(restart.delay_s)),
        ("Most attempts", restart.max_attempts or ""),
        ("Window", span(restart.window_s) if restart.window_s else ""),
    ]


def _update(update: UpdateConfig) -> list[Field]:
    return [
        ("Parallelism", str(update.parallelism) if update.parallelism else "all at once"),
        ("Delay", span(update.delay_s) if update.delay_s else ""),
        ("On failure", update.failure_action.value),
        ("Monitor", span(update.monitor_s)),
        ("Failure ratio", f"{update.max_failure_ratio:g}" if update.max_failure_ratio else ""),
        ("Order", update.order.value),
    ]
