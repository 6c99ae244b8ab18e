"""From a task's bundle to what the Docker engine is told, and from what it tells back. Pure; used by the docker driver.

Every field of the spec is either in one of the sets below or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from services.agent.core.bundle import Payload, PayloadKind, TaskBundle
from services.agent.core.fields import unsupported_fields
from services.agent.core.ports import PortNeed, fill_ports
from services.agent.core.resources import resource_environment
from services.agent.drivers.api import Exit, Option, OptionKind, Rejected, Unsupported
from services.agent.drivers.options import read_options
from services.kit.model.objects import PortStatus
from services.kit.model.specs import ContainerSpec, Mount, TaskSpec
from services.kit.model.states import MountType

DRIVER = "docker"
LABEL = "swarmbus."
NODE_LABEL = f"{LABEL}node.id"
TASK_LABEL = f"{LABEL}task.id"
SIGKILL = 9
NANO = 1_000_000_000

OPTIONS = (
    Option(
        name="network",
        kind=OptionKind.TEXT,
        default="bridge",
        meaning="the engine's network: bridge, host, none, or one that exists on the node",
    ),
)

Json = dict[str, object]

_TASK = frozenset(
    {"driver", "driver_options", "container", "resources", "restart", "placement", "force_update", "log_driver"}
)
_NOT_CONTAINER = frozenset({"isolation", "devices"})
_CONTAINER = frozenset(info for info in ContainerSpec.__struct_fields__ if info not in _NOT_CONTAINER)
_RESOURCES = frozenset({"limits", "reservations", "swap_bytes", "memory_swappiness"})
_PRIVILEGES = frozenset({"no_new_privileges"})
_MOUNTS = {
    MountType.BIND: frozenset(
        {"type", "source", "target", "read_only", "consistency", "propagation", "non_recursive", "create_mountpoint"}
    ),
    MountType.VOLUME: frozenset(
        {"type", "source", "target", "read_only", "no_copy", "labels", "volume_driver", "volume_driver_options"}
    ),
    MountType.TMPFS: frozenset({"type", "target", "read_only", "tmpfs_size_bytes", "tmpfs_mode"}),
}


# -- what the engine tells --------------------------------------------------------------------------------------------


class Binding(msgspec.Struct, frozen=True):
    """Where a container's port is bound on the node."""

    ip: str = msgspec.field(default="", name="HostIp")
    port: str = msgspec.field(default="", name="HostPort")


class Health(msgspec.Struct, frozen=True):
    """What the engine's health check says."""

    status: str = msgspec.field(default="", name="Status")


class State(msgspec.Struct, frozen=True):
    """A container's state."""

    status: str = msgspec.field(default="", name="Status")
    pid: int = msgspec.field(default=0, name="Pid")
    exit_code: int = msgspec.field(default=0, name="ExitCode")
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    error: str = msgspec.field(default="", name="Error")
    started_at: str = msgspec.field(default="", name="StartedAt")
    finished_at: str = msgspec.field(default="", name="FinishedAt")
    health: Health | None = msgspec.field(default=None, name="Health")


class Config(msgspec.Struct, frozen=True):
    """A container's configuration, as far as it is read back."""

    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")
    stop_signal: str = msgspec.field(default="", name="StopSignal")
    tty: bool = msgspec.field(default=False, name="Tty")


class Attachment(msgspec.Struct, frozen=True):
    """A container on a network."""

    address: str = msgspec.field(default="", name="IPAddress")


class NetworkSettings(msgspec.Struct, frozen=True):
    """A container's ports."""

    ports: dict[str, list[Binding] | None] | None = msgspec.field(default=None, name="Ports")
    networks: dict[str, Attachment] | None = msgspec.field(default=None, name="Networks")

    @property
    def address(self) -> str:
        """Return where the container is reached from its node; empty when it has no address of its own."""
        return next((each.address for _, each in sorted((self.networks or {}).items()) if each.address), "")


class Inspected(msgspec.Struct, frozen=True):
    """A container as the engine knows it."""

    id: str = msgspec.field(name="Id")
    state: State = msgspec.field(name="State")
    config: Config = msgspec.field(name="Config")
    network: NetworkSettings = msgspec.field(name="NetworkSettings")

    @property
    def started(self) -> bool:
        """Tell whether it ever ran."""
        return not self.state.started_at.startswith("0001-") and self.state.status not in {"created", ""}

    @property
    def ended(self) -> bool:
        """Tell whether it ran and ended."""
        return self.state.status in {"exited", "dead"}

    @property
    def unhealthy(self) -> bool:
        """Tell whether its health check has given up."""
        return self.state.health is not None and self.state.health.status == "unhealthy"

    @property
    def settled(self) -> bool:
        """Tell whether it serves: healthy, or without a health check."""
        return self.state.health is None or self.state.health.status in {"healthy", "none", ""}


def exit_of(seen: Inspected) -> Exit:
    """Return how a container ended. The engine gives signals as 128 + n, indistinguishable from an exit code: they stay codes."""
    state = seen.state
    finished_at = timestamp(state.finished_at)
    if state.oom_killed:
        return Exit(signal=SIGKILL, oom=True, finished_at=finished_at)
    return Exit(code=state.exit_code, finished_at=finished_at, message=f"task: {state.error}" if state.error else "")


def timestamp(text: str) -> float:
    """Return the seconds since the epoch of the engine's time; 0 for its zero time or nonsense."""
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0.0


def port_statuses(bundle: TaskBundle, seen: Inspected) -> tuple[PortStatus, ...]:
    """Return where the ports of a task are reached on its node."""
    bound = seen.network.ports or {}
    network = _network(bundle)
    found: list[PortStatus] = []
    for need in bundle.ports:
        bindings = bound.get(_port_key(need)) or []
        number = need.target_port if network == "host" else int(bindings[0].port) if bindings else 0
        if number:
            found.append(
                PortStatus(name=need.name, target_port=need.target_port, port=number, protocol=need.protocol.value)
            )
    return tuple(found)


# -- what the engine is told ------------------------------------------------------------------------------------------


def check(bundle: TaskBundle) -> None:
    """Refuse what the engine cannot be given; raises Unsupported and Rejected."""
    task, container = bundle.spec.task, bundle.container
    fields = [
        *unsupported_fields(task, _TASK, path="task"),
        *unsupported_fields(container, _CONTAINER, path="container"),
        *unsupported_fields(container.privileges, _PRIVILEGES, path="container.privileges"),
        *unsupported_fields(task.resources, _RESOURCES, path="task.resources"),
    ]
    for index, mount in enumerate(container.mounts):
        path = f"container.mounts.{index}"
        honoured = _MOUNTS.get(mount.type)
        fields += [f"{path}.type"] if honoured is None else unsupported_fields(mount, honoured, path=path)
    if fields:
        raise Unsupported(DRIVER, tuple(fields))
    if not container.image:
        raise Rejected("the docker driver needs an image")
    if bundle.ports and _network(bundle) == "none":
        raise Rejected("a task without network cannot publish ports")


def container_config(bundle: TaskBundle, *, addr: str, files: Mapping[str, Path]) -> Json:
    """Return the body of the engine's create call. ``files`` maps paths in the container to files to bind there, read-only."""
    container = fill_ports(bundle.container, port_numbers(bundle))
    ports = {_port_key(need): need for need in bundle.ports}
    config: Json = {
        "Image": container.image,
        "Entrypoint": list(container.command) or None,
        "Cmd": list(container.args) or None,
        "Env": [
            *(f"{key}={value}" for key, value in resource_environment(bundle.task.generic).items()),
            *container.env,
        ],
        "Labels": {**container.labels, **_labels(bundle)},
        "Hostname": container.hostname,
        "WorkingDir": container.dir,
        "User": container.user,
        "Tty": container.tty,
        "OpenStdin": container.open_stdin,
        "ExposedPorts": {key: {} for key in ports},
        "HostConfig": _host_config(bundle.spec.task, container, _network(bundle), addr, ports, files),
    }
    if container.stop_signal:
        config["StopSignal"] = container.stop_signal
    if container.health_check is not None and container.health_check.test:
        # The agent asks, as it does for every driver; only a check that comes with the image is the engine's.
        config["Healthcheck"] = {"Test": ["NONE"]}
    return config


def payload_path(payload: Payload) -> str:
    """Return where a container sees a secret or config."""
    name = payload.target.name
    if name.startswith("/"):
        return name
    return f"/run/secrets/{name}" if payload.kind is PayloadKind.SECRET else f"/{name}"


def _host_config(
    task: TaskSpec,
    container: ContainerSpec,
    network: str,
    addr: str,
    ports: Mapping[str, PortNeed],
    files: Mapping[str, Path],
) -> Json:
    config: Json = {
        "NetworkMode": network,
        "RestartPolicy": {"Name": "no"},
        "Mounts": [*map(_mount, container.mounts), *(_file(path, source) for path, source in sorted(files.items()))],
        "CapAdd": list(container.capability_add),
        "CapDrop": list(container.capability_drop),
        "GroupAdd": list(container.groups),
        "ReadonlyRootfs": container.read_only,
        "Sysctls": container.sysctls,
        "Ulimits": [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in container.ulimits],
        "OomScoreAdj": container.oom_score_adj,
        "ExtraHosts": [_extra_host(line) for line in container.hosts],
        "Dns": list(container.nameservers),
        "DnsSearch": list(container.dns_search),
        "DnsOptions": list(container.dns_options),
        **_limits(task),
    }
    if network != "host":
        config["PortBindings"] = {
            key: [{"HostIp": addr, "HostPort": str(need.fixed_port) if need.fixed_port else ""}]
            for key, need in ports.items()
        }
    if container.init is not None:
        config["Init"] = container.init
    if container.pids_limit:
        config["PidsLimit"] = container.pids_limit
    if container.privileges.no_new_privileges:
        config["SecurityOpt"] = ["no-new-privileges"]
    if task.log_driver.name:
        config["LogConfig"] = {"Type": task.log_driver.name, "Config": task.log_driver.options}
    return config


def _limits(task: TaskSpec) -> Json:
    limits, reservations = task.resources.limits, task.resources.reservations
    config: Json = {
        "NanoCpus": limits.nano_cpus,
        "Memory": limits.memory_bytes,
        "MemoryReservation": reservations.memory_bytes,
    }
    if task.resources.swap_bytes is not None:
        unlimited = task.resources.swap_bytes < 0 or not limits.memory_bytes
        config["MemorySwap"] = -1 if unlimited else limits.memory_bytes + task.resources.swap_bytes
    if task.resources.memory_swappiness is not None:
        config["MemorySwappiness"] = task.resources.memory_swappiness
    return config


def _mount(mount: Mount) -> Json:
    config: Json = {
        "Type": mount.type.value,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "Consistency": mount.consistency,
    }
    match mount.type:
        case MountType.BIND:
            config["BindOptions"] = {
                "Propagation": mount.propagation,
                "NonRecursive": mount.non_recursive,
                "CreateMountpoint": mount.create_mountpoint,
            }
        case MountType.VOLUME:
            options: Json = {"NoCopy": mount.no_copy, "Labels": mount.labels}
            if mount.volume_driver:
                options["DriverConfig"] = {"Name": mount.volume_driver, "Options": mount.volume_driver_options}
            config["VolumeOptions"] = options
        case MountType.TMPFS:
            config["TmpfsOptions"] = {"SizeBytes": mount.tmpfs_size_bytes, "Mode": mount.tmpfs_mode}
        case _:
            raise AssertionError(f"check() lets no {mount.type} mount through")
    return config


def _file(path: str, source: Path) -> Json:
    return {"Type": "bind", "Source": str(source), "Target": path, "ReadOnly": True}


def _labels(bundle: TaskBundle) -> dict[str, str]:
    """Return the labels by which tasks are found again, and SwarmKit's own, which tools look for."""
    facts = {
        "task.id": bundle.id,
        "task.name": bundle.name,
        "node.id": bundle.node.id,
        "service.id": bundle.task.service_id,
        "service.name": bundle.spec.annotations.name,
    }
    swarm = {f"com.docker.swarm.{key}": value for key, value in facts.items()}
    return {**swarm, **{f"{LABEL}{key}": value for key, value in facts.items()}}


def _extra_host(line: str) -> str:
    """Turn a line of a hosts file (``address name``) into the engine's ``name:address``; that form is taken as it is."""
    address, _, name = line.partition(" ")
    return f"{name.split()[0]}:{address}" if name.strip() else line


def _network(bundle: TaskBundle) -> str:
    return str(read_options(DRIVER, OPTIONS, bundle.spec.task.driver_options)["network"])


def _port_key(need: PortNeed) -> str:
    return f"{need.target_port}/{need.protocol.value}"


def port_numbers(bundle: TaskBundle) -> dict[str, int]:
    """Return the numbers that the task itself listens on: inside a container they are the targets."""
    numbers = {need.name: need.target_port for need in reversed(bundle.ports)}
    if bundle.ports:
        numbers[""] = bundle.ports[0].target_port
    return numbers
