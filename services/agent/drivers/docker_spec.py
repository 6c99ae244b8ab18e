"""From a task's bundle to what the Docker engine is told. Pure; used by the docker driver.

Every field of the spec is either in one of the sets below or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from services.agent.core.bundle import Payload, PayloadKind, TaskBundle
from services.agent.core.fields import unsupported_fields
from services.agent.core.ports import PortNeed, fill_ports
from services.agent.core.resources import resource_environment
from services.agent.drivers.api import Option, OptionKind, Rejected, Unsupported
from services.agent.drivers.docker_devices import device_config, is_cdi, read_device, security_options
from services.agent.drivers.docker_networks import endpoint_config, engine_network, unsupported_networks
from services.agent.drivers.docker_state import port_key
from services.agent.drivers.options import read_options
from services.kit.model.specs import ContainerSpec, Mount, Privileges, TaskSpec
from services.kit.model.states import MountType

DRIVER = "docker"
LABEL = "swarmbus."
NODE_LABEL = f"{LABEL}node.id"
TASK_LABEL = f"{LABEL}task.id"

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
    {
        "driver",
        "driver_options",
        "container",
        "resources",
        "restart",
        "placement",
        "force_update",
        "log_driver",
        "networks",
    }
)
_CONTAINER = frozenset(ContainerSpec.__struct_fields__) - {"isolation"}
"""Isolation and credential specs are Windows' own."""
_RESOURCES = frozenset({"limits", "reservations", "swap_bytes", "memory_swappiness"})
_PRIVILEGES = frozenset(Privileges.__struct_fields__) - {"credential_spec_config"}
_MOUNTS = {
    MountType.BIND: frozenset(
        {"type", "source", "target", "read_only", "consistency", "propagation", "non_recursive", "create_mountpoint"}
    ),
    MountType.VOLUME: frozenset(
        {
            "type",
            "source",
            "target",
            "read_only",
            "consistency",
            "no_copy",
            "labels",
            "volume_driver",
            "volume_driver_options",
            "subpath",
        }
    ),
    MountType.TMPFS: frozenset(
        {"type", "target", "read_only", "consistency", "tmpfs_size_bytes", "tmpfs_mode", "tmpfs_options"}
    ),
}
_SINCE = {"subpath": (1, 45), "tmpfs_options": (1, 46)}
"""Fields of mounts that only engines from this version of their API on know; older ones drop them in silence."""
CDI_SINCE = (1, 44)

ApiVersion = tuple[int, int]


# -- what the engine is told ------------------------------------------------------------------------------------------


def check(bundle: TaskBundle, api: ApiVersion) -> None:
    """Refuse what an engine with this version of the API cannot be given; raises Unsupported and Rejected."""
    task, container = bundle.spec.task, bundle.container
    fields = [
        *unsupported_fields(task, _TASK, path="task"),
        *unsupported_fields(container, _CONTAINER, path="container"),
        *unsupported_fields(container.privileges, _PRIVILEGES, path="container.privileges"),
        *unsupported_fields(task.resources, _RESOURCES, path="task.resources"),
    ]
    for index, mount in enumerate(container.mounts):
        path = f"container.mounts.{index}"
        known = _MOUNTS.get(mount.type)
        honoured = (known or frozenset()) - {field for field, since in _SINCE.items() if api < since}
        fields += [f"{path}.type"] if known is None else unsupported_fields(mount, honoured, path=path)
    fields += unsupported_networks(bundle.attachments)
    if api < CDI_SINCE and any(is_cdi(device) for device in (*container.devices, *bundle.devices)):
        fields.append("container.devices")
    if fields:
        raise Unsupported(DRIVER, tuple(fields))
    if not container.image:
        raise Rejected("the docker driver needs an image")
    for device in (*container.devices, *bundle.devices):
        read_device(device)
    security_options(container.privileges)
    if bundle.ports and network_of(bundle) == "none":
        raise Rejected("a task without network cannot publish ports")


def container_config(bundle: TaskBundle, *, addr: str, files: Mapping[str, Path]) -> Json:
    """Return the body of the engine's create call. ``files`` maps paths in the container to files to bind there, read-only."""
    container = fill_ports(bundle.container, port_numbers(bundle))
    devices = (*container.devices, *(device for device in bundle.devices if device not in container.devices))
    ports = {port_key(need): need for need in bundle.ports}
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
        "HostConfig": _host_config(bundle.spec.task, container, devices, network_of(bundle), addr, ports, files),
    }
    if bundle.attachments:
        # The others are joined before the start: older engines take one network only here.
        first = bundle.attachments[0]
        config["NetworkingConfig"] = {"EndpointsConfig": {engine_network(first.network.id): endpoint_config(first)}}
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
    devices: tuple[str, ...],
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
    if container.privileges != Privileges():
        config["SecurityOpt"] = security_options(container.privileges)
    if devices:
        config |= device_config(devices)
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
    options: Json
    match mount.type:
        case MountType.BIND:
            config["BindOptions"] = {
                "Propagation": mount.propagation,
                "NonRecursive": mount.non_recursive,
                "CreateMountpoint": mount.create_mountpoint,
            }
        case MountType.VOLUME:
            options = {"NoCopy": mount.no_copy, "Labels": mount.labels}
            if mount.subpath:
                options["Subpath"] = mount.subpath
            if mount.volume_driver:
                options["DriverConfig"] = {"Name": mount.volume_driver, "Options": mount.volume_driver_options}
            config["VolumeOptions"] = options
        case MountType.TMPFS:
            options = {"SizeBytes": mount.tmpfs_size_bytes, "Mode": mount.tmpfs_mode}
            if mount.tmpfs_options:
                # As for mount(8), name or name=value each; the engine wants lists of one or two.
                options["Options"] = [entry.split("=", 1) for entry in mount.tmpfs_options.split(",")]
            config["TmpfsOptions"] = options
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


def network_of(bundle: TaskBundle) -> str:
    """Return the engine's network that a task is on, the first one if there are several."""
    if bundle.spec.task.networks:
        return engine_network(bundle.spec.task.networks[0].target)
    return str(read_options(DRIVER, OPTIONS, bundle.spec.task.driver_options)["network"])


def port_numbers(bundle: TaskBundle) -> dict[str, int]:
    """Return the numbers that the task itself listens on: inside a container they are the targets."""
    numbers = {need.name: need.target_port for need in reversed(bundle.ports)}
    if bundle.ports:
        numbers[""] = bundle.ports[0].target_port
    return numbers
