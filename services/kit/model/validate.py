"""What makes a spec valid. Called by the dispatcher for every request, and by clients that want to know beforehand.

Every function returns all problems at once, each with its path, the value and how to mend it; none of them raises. Rules that need
other objects (does this secret exist, is this port free) are the dispatcher's. The rules are SwarmKit's unless a comment says otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

from services.kit.errors import Problem
from services.kit.model.constraints import KEYS, is_known_key, parse_constraint
from services.kit.model.cron import parse_cron, parse_zone
from services.kit.model.ingress import ANY, is_by_name, label_problems, wanted
from services.kit.model.network_rules import network_spec_problems, networking_problems, task_network_problems
from services.kit.model.problems import Problems
from services.kit.model.specs import (
    ClusterSpec,
    ConfigSpec,
    ContainerSpec,
    CronSchedule,
    EndpointSpec,
    Global,
    GlobalJob,
    HealthCheck,
    HttpConfig,
    IngressConfig,
    NetworkSpec,
    NodeSpec,
    Placement,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretSpec,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import DataPlane, EndpointMode, Protocol, ProxyVersion, PublishMode

NAME_LENGTH_MAX = 63
FILE_NAME_LENGTH_MAX = 64
"""Characters of a secret's or config's name."""
SECRET_BYTES_MAX = 511_999
CONFIG_BYTES_MAX = 1_023_999
NANO_CPUS_MIN = 1_000_000
"""A thousandth of a core."""
MEMORY_BYTES_MIN = 4 << 20
PORT_MAX = 65535
REPLICAS_MAX = 1_000_000
"""Beyond SwarmKit: a mistyped number should not fill the store."""
CERT_EXPIRY_MIN_S = 3600.0
HEALTH_INTERVAL_MIN_S = 0.001
HEARTBEAT_PERIOD_MIN_S = 0.1
OVERCOMMIT_MAX = 100
"""Beyond SwarmKit, which takes zero and then never hears of anybody in time."""
HOST_LENGTH_MAX = 253
HEAD_BYTES_MIN = 1024
HEAD_BYTES_MAX = 1 << 20

_NAME = re.compile(r"[a-zA-Z0-9]+(?:[-_][a-zA-Z0-9]+)*")
_FILE_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?")
_HOST = re.compile(r"(?:\*\.)?[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*")
_PATH = re.compile(r"/[!-~]*")
_DRIVER = re.compile(r"[a-z][a-z0-9_-]*")
_ENV = re.compile(r"[^=\s\0]+(=[^\0]*)?", re.DOTALL)
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"  # registry
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"  # path
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"  # tag, digest
)
_LABEL_FAMILIES = ("node.labels.", "engine.labels.")


def service_problems(spec: ServiceSpec) -> tuple[Problem, ...]:
    """Return every mistake in a service's spec."""
    problems = Problems()
    _name(problems, "annotations.name", spec.annotations.name)
    _task(problems, "task", spec.task)
    _mode(problems, "mode", spec.mode)
    _update(problems, "update", spec.update)
    _update(problems, "rollback", spec.rollback)
    _endpoint(problems, "endpoint", spec.endpoint, spec.annotations.labels)
    problems.found += label_problems(spec)
    _dependencies(problems, "depends_on", spec)
    if isinstance(spec.mode, ReplicatedJob | GlobalJob) and spec.update != UpdateConfig():
        problems.add(
            "update", "a job cannot have an update configuration", hint="leave it out: an update runs a job again"
        )
    return tuple(problems.found)


def node_problems(spec: NodeSpec) -> tuple[Problem, ...]:
    """Return every mistake in a node's spec."""
    problems = Problems()
    if spec.annotations.name:
        _name(problems, "annotations.name", spec.annotations.name)
    _labels(problems, "annotations.labels", spec.annotations.labels)
    return tuple(problems.found)


def cluster_problems(spec: ClusterSpec) -> tuple[Problem, ...]:
    """Return every mistake in the cluster's spec."""
    problems = Problems()
    if spec.annotations.name != "default":
        problems.add("annotations.name", "the cluster's name cannot change", spec.annotations.name, 'it is "default"')
    problems.at_least(
        "ca.node_cert_expiry_s", spec.ca.node_cert_expiry_s, CERT_EXPIRY_MIN_S, "certificates live for an hour at least"
    )
    problems.at_least(
        "dispatcher.heartbeat_period_s",
        spec.dispatcher.heartbeat_period_s,
        HEARTBEAT_PERIOD_MIN_S,
        "agents beat this often; 5 is the default",
    )
    problems.at_least("orchestration.ghost_nodes_after_s", spec.orchestration.ghost_nodes_after_s, 0, "0 means never")
    scheduling = spec.scheduling
    problems.at_least("scheduling.evictions_max", scheduling.evictions_max, 0, "0 means that no task is ever ended")
    problems.at_least("scheduling.moves_max", scheduling.moves_max, 0, "0 means that no task is ever moved")
    problems.at_least("scheduling.moves_interval_s", scheduling.moves_interval_s, 0)
    for field, factor in (("cpu", scheduling.cpu_overcommit), ("memory", scheduling.memory_overcommit)):
        if not 0 < factor <= OVERCOMMIT_MAX:
            problems.add(f"scheduling.{field}_overcommit", f"must be more than 0 and at most {OVERCOMMIT_MAX}", factor)
    networking_problems(problems, "networking", spec.networking)
    problems.at_least("raft.snapshot_interval", spec.raft.snapshot_interval, 1)
    problems.at_least("raft.keep_old_snapshots", spec.raft.keep_old_snapshots, 0)
    problems.at_least("raft.log_entries_for_slow_followers", spec.raft.log_entries_for_slow_followers, 0)
    for index, external in enumerate(spec.ca.external_cas):
        if external.protocol != "cfssl":
            problems.add(f"ca.external_cas[{index}].protocol", "is not known", external.protocol, 'only "cfssl" is')
        if not external.url.startswith("https://"):
            problems.add(f"ca.external_cas[{index}].url", "must be an https address", external.url)
    return tuple(problems.found)


def network_problems(spec: NetworkSpec) -> tuple[Problem, ...]:
    """Return every mistake in a network's spec."""
    problems = Problems()
    _name(problems, "annotations.name", spec.annotations.name)
    _labels(problems, "annotations.labels", spec.annotations.labels)
    network_spec_problems(problems, spec)
    return tuple(problems.found)


def secret_problems(spec: SecretSpec) -> tuple[Problem, ...]:
    """Return every mistake in a secret's spec."""
    problems = Problems()
    _file_name(problems, spec.annotations.name)
    _labels(problems, "annotations.labels", spec.annotations.labels)
    if spec.driver.name and spec.data:
        problems.add("data", "a secret of a driver has no data of its own")
    elif not spec.driver.name:
        _size(problems, len(spec.data), SECRET_BYTES_MAX)
    return tuple(problems.found)


def config_problems(spec: ConfigSpec) -> tuple[Problem, ...]:
    """Return every mistake in a config's spec."""
    problems = Problems()
    _file_name(problems, spec.annotations.name)
    _labels(problems, "annotations.labels", spec.annotations.labels)
    _size(problems, len(spec.data), CONFIG_BYTES_MAX)
    return tuple(problems.found)


def _size(problems: Problems, size: int, most: int) -> None:
    """Note data of a wrong size, never the data itself."""
    if not 1 <= size <= most:
        problems.add("data", f"must be 1 to {most} bytes", f"{size} bytes")


def _file_name(problems: Problems, name: str) -> None:
    path = "annotations.name"
    if len(name) > FILE_NAME_LENGTH_MAX:
        problems.add(path, f"has {len(name)} characters, {FILE_NAME_LENGTH_MAX} are allowed", name)
    elif not _FILE_NAME.fullmatch(name):
        hint = "use letters, digits, - _ and ., and begin and end with a letter or digit"
        problems.add(path, "is not a valid name", name, hint)


def _name(problems: Problems, path: str, name: str) -> None:
    if not name:
        problems.add(path, "must not be empty")
    elif len(name) > NAME_LENGTH_MAX:
        problems.add(path, f"has {len(name)} characters, {NAME_LENGTH_MAX} are allowed", name)
    elif not _NAME.fullmatch(name):
        hint = "use letters and digits, joined by single - or _, and begin and end with a letter or digit"
        problems.add(path, "is not a valid name", name, hint)


def _labels(problems: Problems, path: str, labels: dict[str, str]) -> None:
    for key in labels:
        if not key.strip() or "\0" in key:
            problems.add(path, "a label needs a key", key, "write key=value")


def _mode(problems: Problems, path: str, mode: ServiceMode) -> None:
    match mode:
        case Replicated():
            _count(problems, f"{path}.replicas", mode.replicas)
        case ReplicatedJob():
            _count(problems, f"{path}.max_concurrent", mode.max_concurrent)
            if mode.max_concurrent == 0 and mode.total_completions > 0:
                # Beyond SwarmKit, which takes it and then never runs anything.
                problems.add(f"{path}.max_concurrent", "must be at least 1", 0, "no task would ever run")
            _count(problems, f"{path}.total_completions", mode.total_completions)
            _schedule(problems, f"{path}.schedule", mode.schedule)
        case GlobalJob():
            _schedule(problems, f"{path}.schedule", mode.schedule)
        case Global():
            pass


def _schedule(problems: Problems, path: str, schedule: CronSchedule | None) -> None:
    if schedule is None:
        return
    try:
        parse_cron(schedule.cron)
    except ValueError as error:
        problems.add(f"{path}.cron", f"is not a schedule: {error}", schedule.cron, "for example 30 4 * * mon-fri")
    try:
        parse_zone(schedule.time_zone)
    except ValueError as error:
        problems.add(f"{path}.time_zone", str(error), schedule.time_zone, "for example Europe/Berlin")
    problems.at_least(f"{path}.missed_window_s", schedule.missed_window_s, 0)
    problems.at_least(f"{path}.keep_last", schedule.keep_last, 1)


def _dependencies(problems: Problems, path: str, spec: ServiceSpec) -> None:
    for index, dependency in enumerate(spec.depends_on):
        _name(problems, f"{path}[{index}].service", dependency.service)
        if dependency.service.lower() == spec.annotations.name.lower():
            problems.add(f"{path}[{index}].service", "a service cannot wait for itself", dependency.service)
    _unique(problems, path, "is named twice", (dependency.service for dependency in spec.depends_on))


def _count(problems: Problems, path: str, count: int) -> None:
    if not 0 <= count <= REPLICAS_MAX:
        problems.add(path, f"must be between 0 and {REPLICAS_MAX}", count)


def _task(problems: Problems, path: str, task: TaskSpec) -> None:
    if not _DRIVER.fullmatch(task.driver):
        problems.add(f"{path}.driver", "is not a driver's name", task.driver, "docker, process, oci or fake")
    _container(problems, f"{path}.container", task.container)
    _needs(problems, path, task)
    _requirements(problems, f"{path}.resources", task.resources)
    _restart(problems, f"{path}.restart", task.restart)
    _placement(problems, f"{path}.placement", task.placement)
    task_network_problems(problems, path, task)


def _needs(problems: Problems, path: str, task: TaskSpec) -> None:
    """Each driver needs something to run."""
    container = task.container
    if task.driver == "process" and not (*container.command, *container.args):
        problems.add(f"{path}.container.command", "the process driver needs a command", hint="write it behind --")
    if task.driver in {"docker", "oci"}:
        if not container.image:
            problems.add(f"{path}.container.image", "must not be empty", hint="name an image, or choose another driver")
        elif not _IMAGE.fullmatch(container.image):
            problems.add(f"{path}.container.image", "is not an image reference", container.image, "write name:tag")


def _container(problems: Problems, path: str, container: ContainerSpec) -> None:
    for index, entry in enumerate(container.env):
        if not _ENV.fullmatch(entry):
            problems.add(f"{path}.env[{index}]", "is not NAME=value", entry)
    problems.at_least(f"{path}.stop_grace_period_s", container.stop_grace_period_s, 0)
    problems.at_least(f"{path}.pids_limit", container.pids_limit, -1)
    for index, mount in enumerate(container.mounts):
        if not mount.target:
            problems.add(f"{path}.mounts[{index}].target", "must not be empty")
    _unique(
        problems, f"{path}.mounts", "two mounts have the same target", (m.target for m in container.mounts if m.target)
    )
    files = [secret.target.name for secret in container.secrets]
    files += [config.target.name for config in container.configs if config.target is not None]
    _unique(problems, f"{path}.secrets", "two secrets or configs have the same target file", files)
    _references(problems, path, container)
    if container.health_check is not None:
        _health(problems, f"{path}.health_check", container.health_check)
    for name, text in _templated(path, container):
        if text.count("{{") != text.count("}}"):
            problems.add(name, "has an unfinished template", text, "every {{ needs its }}")


def _references(problems: Problems, path: str, container: ContainerSpec) -> None:
    for index, secret in enumerate(container.secrets):
        if not (secret.secret_id and secret.secret_name and secret.target.name):
            problems.add(f"{path}.secrets[{index}]", "needs an id, a name and a target", secret.secret_name)
    for index, config in enumerate(container.configs):
        if not (config.config_id and config.config_name) or (config.target is not None and not config.target.name):
            problems.add(
                f"{path}.configs[{index}]", "needs an id, a name and, if any, a named target", config.config_name
            )


def _templated(path: str, container: ContainerSpec) -> Iterable[tuple[str, str]]:
    yield f"{path}.hostname", container.hostname
    for field, values in (("env", container.env), ("command", container.command), ("args", container.args)):
        for index, value in enumerate(values):
            yield f"{path}.{field}[{index}]", value


def _health(problems: Problems, path: str, check: HealthCheck) -> None:
    for field in ("interval_s", "timeout_s", "start_period_s", "start_interval_s"):
        value: float = getattr(check, field)
        if value != 0 and value < HEALTH_INTERVAL_MIN_S:
            problems.add(f"{path}.{field}", "must be 0 or at least a millisecond", value)
    problems.at_least(f"{path}.retries", check.retries, 0)


def _requirements(problems: Problems, path: str, needs: ResourceRequirements) -> None:
    _resources(problems, f"{path}.limits", needs.limits)
    _resources(problems, f"{path}.reservations", needs.reservations)
    for index, generic in enumerate(needs.reservations.generic):
        if generic.names:
            hint = "ask for a number; the scheduler deals the names"
            problems.add(f"{path}.reservations.generic[{index}]", "a reservation is a number", generic.kind, hint)
        elif generic.count <= 0:
            problems.add(f"{path}.reservations.generic[{index}]", "must be at least 1", generic.count)
    swappiness = needs.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= 100:
        problems.add(f"{path}.memory_swappiness", "must be between 0 and 100, or -1", swappiness)


def _resources(problems: Problems, path: str, amount: Resources) -> None:
    if amount.nano_cpus != 0 and amount.nano_cpus < NANO_CPUS_MIN:
        hint = f"0.001 of a core ({NANO_CPUS_MIN}) is the least"
        problems.add(f"{path}.nano_cpus", "is too small", amount.nano_cpus, hint)
    if amount.memory_bytes != 0 and amount.memory_bytes < MEMORY_BYTES_MIN:
        problems.add(f"{path}.memory_bytes", "is too small", amount.memory_bytes, "4 MiB (4194304) is the least")


def _restart(problems: Problems, path: str, policy: RestartPolicy) -> None:
    problems.at_least(f"{path}.delay_s", policy.delay_s, 0)
    problems.at_least(f"{path}.window_s", policy.window_s, 0)
    problems.at_least(f"{path}.max_attempts", policy.max_attempts, 0, "0 means without limit")
    problems.at_least(f"{path}.backoff_factor", policy.backoff_factor, 1, "1 means that the delay stays the same")
    problems.at_least(f"{path}.delay_max_s", policy.delay_max_s, 0)
    if not 0 <= policy.jitter <= 1:
        problems.add(f"{path}.jitter", "must be between 0 and 1", policy.jitter)


def _placement(problems: Problems, path: str, placement: Placement) -> None:
    for index, text in enumerate(placement.constraints):
        _constraint(problems, f"{path}.constraints[{index}]", text)
    for index, preference in enumerate(placement.preferences):
        if not preference.descriptor.startswith(_LABEL_FAMILIES):
            hint = "spread over node.labels.NAME or engine.labels.NAME"
            problems.add(f"{path}.preferences[{index}].descriptor", "is not a label", preference.descriptor, hint)
    problems.at_least(f"{path}.max_replicas", placement.max_replicas, 0, "0 means without limit")
    for name in sorted(set(placement.affinity) & set(placement.anti_affinity)):
        problems.add(f"{path}.affinity", "names a service that anti_affinity names as well", name)


def _constraint(problems: Problems, where: str, text: str) -> None:
    try:
        constraint = parse_constraint(text)
    except ValueError as error:
        problems.add(where, f"is not a constraint: {error}", text, "write for example node.labels.disk==ssd")
        return
    if not is_known_key(constraint.key):
        # Beyond SwarmKit, which takes an unknown key and then never finds a node.
        known = ", ".join((*KEYS, "node.labels.NAME", "engine.labels.NAME"))
        problems.add(where, f"no node has the key {constraint.key!r}", text, f"known are {known}")


def _update(problems: Problems, path: str, config: UpdateConfig) -> None:
    problems.at_least(f"{path}.parallelism", config.parallelism, 0, "0 means all at once")
    problems.at_least(f"{path}.delay_s", config.delay_s, 0)
    problems.at_least(f"{path}.monitor_s", config.monitor_s, 0)
    if not 0 <= config.max_failure_ratio <= 1:
        problems.add(f"{path}.max_failure_ratio", "must be between 0 and 1", config.max_failure_ratio)


def _endpoint(problems: Problems, path: str, endpoint: EndpointSpec, labels: Mapping[str, str]) -> None:
    for index, port in enumerate(endpoint.ports):
        where = f"{path}.ports[{index}]"
        port = wanted(port, labels)
        if not 1 <= port.target_port <= PORT_MAX:
            problems.add(f"{where}.target_port", f"must be between 1 and {PORT_MAX}", port.target_port)
        if not 0 <= port.published_port <= PORT_MAX:
            problems.add(
                f"{where}.published_port",
                f"must be between 0 and {PORT_MAX}",
                port.published_port,
                "0 lets swarmbus choose",
            )
        _ingress(problems, f"{where}.ingress", port.ingress)
        if port.ingress.plane is DataPlane.NFT and port.protocol is not Protocol.TCP:
            problems.add(f"{where}.protocol", "the nft plane carries TCP only", port.protocol)
        if is_by_name(port.ingress) and port.protocol is not Protocol.TCP:
            problems.add(f"{where}.protocol", "HTTP and TLS are read on TCP ports only", port.protocol)
        if endpoint.mode is EndpointMode.DNSRR and port.publish_mode is PublishMode.INGRESS:
            hint = "publish in host mode, or use the vip endpoint mode"
            problems.add(f"{where}.publish_mode", "ingress does not go with dnsrr", port.publish_mode, hint)
    published = (f"{p.published_port}/{p.protocol}" for p in endpoint.ports if p.published_port)
    _unique(problems, f"{path}.ports", "a port is published twice", published)


def _ingress(problems: Problems, path: str, ingress: IngressConfig) -> None:
    for field in ("slow_start_s", "drain_s", "idle_timeout_s", "connections_max"):
        problems.at_least(f"{path}.{field}", getattr(ingress, field), 0)
    for index, address in enumerate(ingress.addresses):
        if not is_address(address):
            problems.add(f"{path}.addresses[{index}]", "is not an IP address", address)
    for index, network in enumerate(ingress.proxy_from):
        if not _is_network(network):
            hint = "write it like 10.0.0.0/8"
            problems.add(f"{path}.proxy_from[{index}]", "is not a network", network, hint)
    for index, text in enumerate(ingress.nodes):
        _constraint(problems, f"{path}.nodes[{index}]", text)
    _named(problems, path, ingress)


def _named(problems: Problems, path: str, ingress: IngressConfig) -> None:
    """What says who is meant, and what reads it."""
    for index, name in enumerate(ingress.sni):
        _host(problems, f"{path}.sni[{index}]", name)
    if ingress.sni and ingress.http is not None:
        hint = "name it as a host: HTTP is read behind the TLS that tls_secret ends"
        problems.add(f"{path}.sni", "does not go with http", ingress.sni[0], hint)
    if ingress.plane is DataPlane.NFT:
        _kernel(problems, path, ingress)
    if ingress.http is not None:
        _http(problems, f"{path}.http", ingress.http)


def _kernel(problems: Problems, path: str, ingress: IngressConfig) -> None:
    """The kernel reads, writes and counts nothing."""
    hint = "leave it out, or use the userland plane"
    for field in ("http", "tls_secret", "sni", "proxy_from", "connections_max"):
        if getattr(ingress, field):
            problems.add(f"{path}.{field}", "does not go with the nft plane", "", hint)
    if ingress.proxy_to is not ProxyVersion.NONE:
        problems.add(f"{path}.proxy_to", "does not go with the nft plane", ingress.proxy_to, hint)


def _http(problems: Problems, path: str, http: HttpConfig) -> None:
    if not HEAD_BYTES_MIN <= http.head_bytes_max <= HEAD_BYTES_MAX:
        reason = f"must be between {HEAD_BYTES_MIN} and {HEAD_BYTES_MAX}"
        problems.add(f"{path}.head_bytes_max", reason, http.head_bytes_max)
    if http.head_timeout_s <= 0:
        problems.add(f"{path}.head_timeout_s", "must be more than 0", http.head_timeout_s)
    for index, name in enumerate(http.hosts):
        _host(problems, f"{path}.hosts[{index}]", name)
    for index, text in enumerate(http.paths):
        if not _PATH.fullmatch(text):
            problems.add(f"{path}.paths[{index}]", "is not the beginning of a path", text, "write it like /shop")


def _host(problems: Problems, path: str, name: str) -> None:
    if name != ANY and (len(name) > HOST_LENGTH_MAX or not _HOST.fullmatch(name)):
        problems.add(path, "is not a name of a host", name, "write it like shop.example.org or *.example.org")


def is_address(text: str) -> bool:
    """Tell whether a text is an IP address in numbers."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _unique(problems: Problems, path: str, reason: str, values: Iterable[str]) -> None:
    for value, times in Counter(values).items():
        if times > 1:
            problems.add(path, reason, value)
