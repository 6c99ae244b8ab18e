"""From a task's bundle to the configuration of an OCI runtime (runtime-spec 1.0). Used by the oci driver.

``container.image`` is a directory of the node that holds a root file system. What the runtime cannot be given is refused by name.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from services.agent.core.bundle import PayloadKind, TaskBundle
from services.agent.core.fields import unsupported_fields
from services.agent.core.ports import fill_ports
from services.agent.core.resources import resource_environment
from services.agent.drivers.api import Option, OptionKind, Rejected, Unsupported
from services.agent.drivers.docker_devices import GPUS, is_cdi, read_device
from services.agent.drivers.options import read_options
from services.agent.drivers.process_spec import DEFAULT_PATH
from services.agent.drivers.process_spec import OPTIONS as LOG_OPTIONS
from services.agent.drivers.task_ports import ChosenPort, port_environment, port_numbers
from services.kit.model.specs import ContainerSpec, Mount, Ulimit
from services.kit.model.states import MountType

Json = dict[str, object]
DRIVER: Final = "oci"
OPTIONS: Final = (
    *LOG_OPTIONS,
    Option(
        name="network",
        kind=OptionKind.TEXT,
        default="host",
        meaning="host: the node's own, ports as for the process driver; none: an empty one",
    ),
)
CPU_PERIOD_US: Final = 100_000
NANO: Final = 1_000_000_000
_TASK: Final = frozenset({"driver", "driver_options", "container", "resources", "restart", "placement", "force_update"})
_CONTAINER: Final = frozenset(
    {
        "image",
        "command",
        "args",
        "env",
        "labels",
        "hostname",
        "dir",
        "user",
        "groups",
        "read_only",
        "stop_signal",
        "stop_grace_period_s",
        "mounts",
        "secrets",
        "configs",
        "health_check",
        "privileges",
        "capability_add",
        "capability_drop",
        "sysctls",
        "ulimits",
        "oom_score_adj",
        "pids_limit",
        "devices",
    }
)
_MOUNTS: Final = {
    MountType.BIND: frozenset({"type", "source", "target", "read_only", "propagation", "non_recursive"}),
    MountType.VOLUME: frozenset({"type", "source", "target", "read_only"}),
    MountType.TMPFS: frozenset({"type", "target", "read_only", "tmpfs_size_bytes", "tmpfs_mode", "tmpfs_options"}),
}
_CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)
"""What a container has when nothing is said, as with other engines."""
_MASKED: Final = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
)
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_DEVICES: Final = (
    ("c", 1, 3),
    ("c", 1, 5),
    ("c", 1, 7),
    ("c", 1, 8),
    ("c", 1, 9),
    ("c", 5, 0),
    ("c", 5, 2),
    ("c", 136, None),
)
"""null, zero, full, random, urandom, tty, ptmx, and the terminals."""


def check(bundle: TaskBundle) -> None:
    """Refuse what the runtime cannot be given; raises Unsupported and Rejected."""
    task, container = bundle.spec.task, bundle.container
    fields = [
        *unsupported_fields(task, _TASK, path="task"),
        *unsupported_fields(container, _CONTAINER, path="container"),
        *unsupported_fields(container.privileges, frozenset({"no_new_privileges"}), path="container.privileges"),
        *unsupported_fields(task.resources, frozenset({"limits", "reservations"}), path="task.resources"),
    ]
    for index, mount in enumerate(container.mounts):
        path = f"container.mounts.{index}"
        known = _MOUNTS.get(mount.type)
        fields += [f"{path}.type"] if known is None else unsupported_fields(mount, known, path=path)
    if any(is_cdi(device) or device.startswith(GPUS) for device in (*container.devices, *bundle.devices)):
        fields.append("container.devices")
    if fields:
        raise Unsupported(DRIVER, tuple(fields))
    if network_of(bundle) not in {"host", "none"}:
        raise Rejected("driver_options.network is host or none")
    if bundle.ports and network_of(bundle) == "none":
        raise Rejected("a task without network cannot publish ports")
    if not Path(container.image).is_absolute() or not Path(container.image).is_dir():
        raise Rejected(
            f"container.image: {container.image!r} is no directory of this node that holds a root file system"
        )
    if not (*container.command, *container.args):
        raise Rejected("the oci driver needs a command")


def network_of(bundle: TaskBundle) -> str:
    """Return which network a task has; raises Unsupported for options that do not exist."""
    return str(read_options(DRIVER, OPTIONS, bundle.spec.task.driver_options)["network"])


def make_config(
    bundle: TaskBundle,
    ports: tuple[ChosenPort, ...],
    *,
    root: Path,
    cgroup: str,
    volumes: Mapping[int, Path],
    files: Mapping[str, Path],
    started_fifo: Path,
) -> Json:
    """Return the configuration. When the container runs, ``started_fifo`` is written to.

    ``volumes`` are the directories of volume mounts by their place; ``files`` are secrets and configs by their path inside.
    """
    task = bundle.spec.task
    container = fill_ports(bundle.container, port_numbers(ports))
    devices = [_device(device) for device in (*container.devices, *bundle.devices)]
    namespaces = ["pid", "ipc", "uts", "mount", *(["network"] if network_of(bundle) == "none" else [])]
    process: Json = {
        "terminal": False,
        "user": _user(container, root),
        "args": [*container.command, *container.args],
        "env": _environment(bundle, container, ports),
        "cwd": container.dir or "/",
        "capabilities": _capabilities(container),
        "rlimits": [_rlimit(limit) for limit in container.ulimits],
        "noNewPrivileges": container.privileges.no_new_privileges,
    }
    if container.oom_score_adj:
        process["oomScoreAdj"] = container.oom_score_adj
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": str(root), "readonly": container.read_only},
        "hostname": container.hostname or bundle.id,
        "mounts": [*_system_mounts(), *_mounts(container.mounts, volumes), *_files(files)],
        "annotations": container.labels,
        # Opened for reading too, so that the runtime never waits for a reader.
        "hooks": {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", 'echo started 1<>"$0"', str(started_fifo)]}]},
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "cgroupsPath": cgroup,
            "devices": [entry for entry, _ in devices],
            "resources": _resources(
                task.resources.limits.nano_cpus, task.resources.limits.memory_bytes, container, devices
            ),
            "sysctl": container.sysctls,
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def payload_path(kind: PayloadKind, name: str) -> str:
    """Return where a container sees a secret or config."""
    if name.startswith("/"):
        return name
    return f"/run/secrets/{name}" if kind is PayloadKind.SECRET else f"/{name}"


def _environment(bundle: TaskBundle, container: ContainerSpec, ports: tuple[ChosenPort, ...]) -> list[str]:
    variables = {"PATH": DEFAULT_PATH, "HOSTNAME": container.hostname or bundle.id}
    variables |= port_environment(ports)
    variables |= resource_environment(bundle.task.generic)
    # What the user says comes last and wins.
    variables |= dict(entry.partition("=")[::2] for entry in container.env)
    return [f"{name}={value}" for name, value in variables.items()]


def _user(container: ContainerSpec, root: Path) -> Json:
    """Look users and groups up in the container's own files."""
    name, _, group = container.user.partition(":")
    uid, gid = 0, 0
    if name:
        entry = _entry(root / "etc/passwd", name)
        if entry is None and not name.isdecimal():
            raise Rejected(f"container.user: the root file system knows no user {name!r}")
        uid, gid = (int(entry[2]), int(entry[3])) if entry is not None else (int(name), 0)
    if group:
        gid = _group(root, group, "container.user")
    groups = sorted({_group(root, each, "container.groups") for each in container.groups})
    return {"uid": uid, "gid": gid, "additionalGids": groups}


def _group(root: Path, name: str, path: str) -> int:
    if name.isdecimal():
        return int(name)
    entry = _entry(root / "etc/group", name)
    if entry is None:
        raise Rejected(f"{path}: the root file system knows no group {name!r}")
    return int(entry[2])


def _entry(file: Path, name: str) -> list[str] | None:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return None
    entries = (line.split(":") for line in lines)
    return next((e for e in entries if len(e) > 3 and (e[0] == name or (name.isdecimal() and e[2] == name))), None)


def _capabilities(container: ContainerSpec) -> Json:
    added, dropped = set(map(_capability, container.capability_add)), set(map(_capability, container.capability_drop))
    start = set() if "CAP_ALL" in dropped else {f"CAP_{name}" for name in _CAPABILITIES}
    if "CAP_ALL" in added:
        raise Rejected("container.capability_add: name the capabilities, ALL is not known here")
    held = sorted((start - dropped) | added)
    return {"bounding": held, "effective": held, "permitted": held}


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper.startswith("CAP_") else f"CAP_{upper}"


def _rlimit(limit: Ulimit) -> Json:
    return {"type": f"RLIMIT_{limit.name.upper()}", "soft": max(0, limit.soft), "hard": max(0, limit.hard)}


def _resources(nano_cpus: int, memory_bytes: int, container: ContainerSpec, devices: list[tuple[Json, Json]]) -> Json:
    allowed = [
        {"allow": True, "type": kind, "major": major, "access": "rwm"} | ({} if minor is None else {"minor": minor})
        for kind, major, minor in _DEVICES
    ]
    resources: Json = {"devices": [{"allow": False, "access": "rwm"}, *allowed, *(rule for _, rule in devices)]}
    if memory_bytes:
        resources["memory"] = {"limit": memory_bytes, "swap": memory_bytes}
    if nano_cpus:
        resources["cpu"] = {"quota": max(nano_cpus * CPU_PERIOD_US // NANO, 1000), "period": CPU_PERIOD_US}
    if container.pids_limit:
        resources["pids"] = {"limit": container.pids_limit}
    return resources


def _device(text: str) -> tuple[Json, Json]:
    """Return a device as the container has it, and the rule that lets it be used."""
    mapping = read_device(text)
    source = Path(str(mapping["PathOnHost"]))
    try:
        status = source.stat()
    except OSError as error:
        raise Rejected(f"container.devices: {source}: {error.strerror}") from error
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise Rejected(f"container.devices: {source} is no device")
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    numbers: Json = {"type": kind, "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    entry: Json = {
        "path": mapping["PathInContainer"],
        **numbers,
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    return entry, {"allow": True, "access": mapping["CgroupPermissions"], **numbers}


def _system_mounts() -> Iterable[Json]:
    closed = ["nosuid", "noexec", "nodev"]
    yield {"destination": "/proc", "type": "proc", "source": "proc"}
    yield {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    }
    yield {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    }
    yield {
        "destination": "/dev/shm",  # noqa: S108 - inside the container
        "type": "tmpfs",
        "source": "shm",
        "options": [*closed, "mode=1777", "size=65536k"],
    }
    yield {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": closed}
    yield {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*closed, "ro"]}
    for name in ("/etc/resolv.conf", "/etc/hosts"):
        if Path(name).is_file():
            yield {"destination": name, "type": "bind", "source": name, "options": ["bind", "ro", "nosuid", "nodev"]}


def _mounts(mounts: tuple[Mount, ...], volumes: Mapping[int, Path]) -> Iterable[Json]:
    for index, mount in enumerate(mounts):
        access = "ro" if mount.read_only else "rw"
        if mount.type is MountType.TMPFS:
            options = ["nosuid", "nodev", access, *filter(None, mount.tmpfs_options.split(","))]
            options += [f"size={mount.tmpfs_size_bytes}"] if mount.tmpfs_size_bytes else []
            options += [f"mode={mount.tmpfs_mode:o}"] if mount.tmpfs_mode else []
            yield {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}
        else:
            source = volumes[index] if mount.type is MountType.VOLUME else Path(mount.source)
            options = ["bind" if mount.non_recursive else "rbind", access, mount.propagation or "rprivate"]
            yield {"destination": mount.target, "type": "bind", "source": str(source), "options": options}


def _files(files: Mapping[str, Path]) -> Iterable[Json]:
    for path, source in sorted(files.items()):
        yield {"destination": path, "type": "bind", "source": str(source), "options": ["bind", "ro", "nosuid", "nodev"]}


def signal_name(number: int) -> str:
    """Return a signal as the runtime wants it."""
    return signal.Signals(number).name.removeprefix("SIG")
