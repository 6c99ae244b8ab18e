"""What stands behind the published ports, told to others: Prometheus targets, Traefik's configuration, and this gateway's own numbers.

Pure renderers over the route table. What must stay true: only tasks that take new connections are named; the same table gives the same
bytes, so that a reader who compares them sees no change where there is none. Formats: Prometheus HTTP service discovery and text
exposition 0.0.4; Traefik's HTTP provider with the label grammar of its swarm provider.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from services.kit.messages.routes import Backend, IngressStatus, LatencyCounts, Route
from services.kit.model.states import Protocol

TRAEFIK = "traefik."
LISTS = frozenset({"entrypoints", "middlewares"})
PREFIX = "swarmbus_ingress"

Tree = dict[str, "Tree | str | bool | int | list[str]"]


def prometheus_targets(routes: Iterable[Route]) -> bytes:
    """Return the tasks behind every TCP port as targets for Prometheus's ``http_sd``."""
    groups = [
        {
            "targets": [_authority(backend) for backend in _open(route)],
            "labels": {
                "__meta_swarmbus_service": route.service_name,
                "__meta_swarmbus_service_id": str(route.service_id),
                "__meta_swarmbus_published_port": str(route.published_port),
            },
        }
        for route in _sorted(routes)
        if route.protocol is Protocol.TCP
    ]
    return _json(groups)


def traefik_config(routes: Iterable[Route]) -> bytes:
    """Return the dynamic configuration that services ask for with ``traefik.`` labels."""
    http: dict[str, Tree] = {"routers": {}, "services": {}, "middlewares": {}}
    for route in _sorted(routes):
        if route.protocol is not Protocol.TCP or route.labels.get("traefik.enable", "").lower() != "true":
            continue
        wanted: Tree = {}
        for label, value in sorted(route.labels.items()):
            if label.startswith("traefik.http."):
                _plant(wanted, label.removeprefix("traefik.http.").split("."), value)
        for kind in ("routers", "middlewares"):
            http[kind].update(_branch(wanted, kind))
        services = _branch(wanted, "services")
        names = list(services) or [route.service_name]
        for router in _branch(wanted, "routers").values():
            if isinstance(router, dict):
                router.setdefault("service", names[0])
        for name in names:
            http["services"][name] = {"loadBalancer": _balancer(services.get(name), route)}
    return _json({"http": {kind: tree for kind, tree in http.items() if tree}})


def metrics(status: IngressStatus, routes: Iterable[Route]) -> bytes:
    """Return this gateway's numbers in Prometheus's text format."""
    of_task: dict[str, tuple[str, str]] = {
        backend.task_id: (route.service_name, f"{route.published_port}/{route.protocol.value}")
        for route in routes
        for backend in route.backends
    }
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> None:
        lines.extend((f"# HELP {PREFIX}_{name} {text}", f"# TYPE {PREFIX}_{name} {kind}"))
        lines.extend(f"{PREFIX}_{name}{labels} {value:g}" for labels, value in samples)

    family("epoch", "gauge", "Number of the route table that is acted on.", [("", status.epoch)])
    family("workers", "gauge", "Processes of the data plane.", [("", status.workers)])
    family("open_connections", "gauge", "Connections that are open now.", [("", status.open)])
    family("accepted_total", "counter", "Connections that were accepted.", [("", status.accepted)])
    family("refused_total", "counter", "Connections that no task could be found for.", [("", status.refused)])
    family("retried_total", "counter", "Attempts that were made good by another task.", [("", status.retried)])
    closed = [(_labels(port=port), 1.0) for port in sorted(status.closed_ports)]
    family("closed_port", "gauge", "Published ports that are not open on this node.", closed)
    kernel = [(_labels(port=port), 1.0) for port in status.kernel_ports]
    family("kernel_port", "gauge", "Published ports whose connections to this node's tasks the kernel carries.", kernel)
    for name, kind, text in (
        ("open", "gauge", "Connections to the task that are open now."),
        ("connections", "counter", "Connections to the task."),
        ("failures", "counter", "Attempts to connect that failed."),
        ("ejections", "counter", "Times that the task was left alone for a while."),
        ("bytes_in", "counter", "Bytes from clients to the task."),
        ("bytes_out", "counter", "Bytes from the task to clients."),
    ):
        samples = []
        for task in status.tasks:
            service, port = of_task.get(task.task_id, ("", ""))
            samples.append((_labels(service=service, port=port, task=task.task_id), float(getattr(task, name))))
        family(f"task_{name}{'_total' if kind == 'counter' else ''}", kind, text, samples)
    for name, text in (
        ("connect", "Time that making a connection to the task took."),
        ("answer", "Time from a whole HTTP request to the beginning of the task's answer."),
    ):
        full = f"{PREFIX}_task_{name}_seconds"
        lines.extend((f"# HELP {full} {text}", f"# TYPE {full} histogram"))
        for task in status.tasks:
            latency = task.connects if name == "connect" else task.answers
            service, port = of_task.get(task.task_id, ("", ""))
            lines.extend(
                _histogram(full, latency, status.latency_bounds_s, service=service, port=port, task=task.task_id)
            )
    return ("\n".join(lines) + "\n").encode()


def _histogram(name: str, latency: LatencyCounts, bounds_s: Sequence[float], **labels: str) -> Iterable[str]:
    """Return the lines of one histogram, none when nothing was measured."""
    if not latency.counts:
        return
    below = 0
    for bound, count in zip((*map("{:g}".format, bounds_s), "+Inf"), latency.counts, strict=True):
        below += count
        yield f"{name}_bucket{_labels(**labels, le=bound)} {below}"
    yield f"{name}_sum{_labels(**labels)} {latency.sum_s:g}"
    yield f"{name}_count{_labels(**labels)} {below}"


def _open(route: Route) -> Sequence[Backend]:
    return [backend for backend in route.backends if not backend.draining]


def _sorted(routes: Iterable[Route]) -> list[Route]:
    return sorted(routes, key=lambda route: (route.service_name, route.published_port, route.protocol))


def _authority(backend: Backend) -> str:
    return f"[{backend.addr}]:{backend.port}" if ":" in backend.addr else f"{backend.addr}:{backend.port}"


def _balancer(wanted: object, route: Route) -> Tree:
    """Return a service's balancer with its servers; what a label says of the server is only its scheme."""
    tree = _branch(wanted, "loadbalancer")
    server = _branch(tree, "server")
    scheme = server.get("scheme", "http")
    kept: Tree = {key: value for key, value in tree.items() if key != "server"}
    servers = [{"url": f"{scheme}://{_authority(backend)}"} for backend in _open(route)]
    return {**kept, "servers": servers}  # type: ignore[dict-item]


def _branch(tree: object, name: str) -> Tree:
    found = tree.get(name, {}) if isinstance(tree, dict) else {}
    return found if isinstance(found, dict) else {}


def _plant(tree: Tree, path: Sequence[str], value: str) -> None:
    """Put a label's value at its place; names are as users write them, settings in lower case."""
    here = tree
    for depth, word in enumerate(path[:-1]):
        key = word if depth == 1 else word.lower()
        below = here.setdefault(key, {})
        if not isinstance(below, dict):
            return  # another label says that this is a value
        here = below
    last = path[-1].lower()
    here[last] = [part.strip() for part in value.split(",")] if last in LISTS else _typed(value)


def _typed(value: str) -> str | bool | int:
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    return int(value) if value.isascii() and value.isdigit() else value


def _labels(**pairs: str) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items())
    return f"{{{shown}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _json(thing: object) -> bytes:
    return json.dumps(thing, separators=(",", ":"), sort_keys=True).encode()
