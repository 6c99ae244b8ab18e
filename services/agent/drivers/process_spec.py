"""From a task's bundle to what taskd is told: which fields a process can honour, who it runs as, what it sees. Used by the process driver."""

from __future__ import annotations

import grp
import os
import pwd
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.agent.core.bundle import TaskBundle
from services.agent.core.fields import set_fields, unsupported_fields
from services.agent.core.ports import fill_ports
from services.agent.core.resources import resource_environment
from services.agent.drivers.api import Option, OptionKind, Rejected, Unsupported
from services.agent.drivers.options import read_options
from services.agent.drivers.task_ports import ChosenPort, port_environment, port_numbers
from services.agent.drivers.taskd_client import INHERITED_ENV
from services.agent.taskd.launch import find_setpriv
from services.agent.taskd.records import LOG_BYTES_MAX, LOG_FILES_MAX, TaskSpec, User
from services.kit.model.specs import ContainerSpec, FileTarget

DRIVER: Final = "process"
OPTIONS: Final = (
    Option(
        name="log_bytes_max",
        kind=OptionKind.INTEGER,
        default=str(LOG_BYTES_MAX),
        meaning="a log file of this size is followed by the next",
    ),
    Option(
        name="log_files_max", kind=OptionKind.INTEGER, default=str(LOG_FILES_MAX), meaning="so many log files are kept"
    ),
)
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_BYTES_LEAST: Final = 1024
LOG_FILES_LEAST: Final = 2
_CONTAINER: Final = frozenset(
    {
        "command",
        "args",
        "env",
        "labels",
        "dir",
        "user",
        "groups",
        "stop_signal",
        "stop_grace_period_s",
        "secrets",
        "configs",
        "privileges",
        "isolation",
        "oom_score_adj",
        "pids_limit",
        "health_check",
    }
)
_TASK: Final = frozenset({"driver", "driver_options", "container", "resources", "restart", "placement", "force_update"})
_ISOLATIONS: Final = frozenset({"", "default", "none", "process"})


def check(bundle: TaskBundle) -> None:
    """Refuse what a process cannot be given; raises Unsupported and Rejected."""
    task, container = bundle.spec.task, bundle.container
    fields = [
        *unsupported_fields(task, _TASK, path="task"),
        *unsupported_fields(container, _CONTAINER, path="container"),
        *unsupported_fields(container.privileges, frozenset({"no_new_privileges"}), path="container.privileges"),
        *unsupported_fields(task.resources, frozenset({"limits", "reservations"}), path="task.resources"),
    ]
    if container.isolation not in _ISOLATIONS:
        fields.append("container.isolation")
    fields += _unsupported_payloads(bundle)
    if _needs_setpriv(container) and find_setpriv() is None:
        fields += sorted({"user", "groups"} & set_fields(container) or {"privileges.no_new_privileges"})
    if fields:
        raise Unsupported(DRIVER, tuple(sorted(set(fields))))
    log_limits(task.driver_options)
    if not (*container.command, *container.args):
        raise Rejected("the process driver needs a command")
    if container.dir and not Path(container.dir).is_absolute():
        raise Rejected(f"container.dir: {container.dir!r} is not absolute")
    if container.dir and not Path(container.dir).is_dir():
        raise Rejected(f"container.dir: there is no directory {container.dir} on this node")
    stop_signal(container)


def make_spec(bundle: TaskBundle, ports: tuple[ChosenPort, ...], work_dir: Path, files: Mapping[str, str]) -> TaskSpec:
    """Decide everything about the process. ``files`` are the variables that name directories of secrets and configs."""
    task = bundle.spec.task
    container = fill_ports(bundle.container, port_numbers(ports))
    user = find_user(container)
    limits = task.resources.limits
    bytes_max, files_max = log_limits(task.driver_options)
    return TaskSpec(
        id=bundle.id,
        command=(*container.command, *container.args),
        env=_environment(container, ports, files, resource_environment(bundle.task.generic)),
        directory=container.dir or str(work_dir),
        user=user,
        memory_bytes=limits.memory_bytes,
        nano_cpus=limits.nano_cpus,
        pids=container.pids_limit,
        no_new_privileges=container.privileges.no_new_privileges,
        oom_score_adj=container.oom_score_adj,
        stop_signal=stop_signal(container),
        log_bytes_max=bytes_max,
        log_files_max=files_max,
    )


def stop_signal(container: ContainerSpec) -> int:
    """Return the number of the stop signal, given as a number or as a name with or without SIG; raises Rejected."""
    text = container.stop_signal.upper() or "SIGTERM"
    if text.isdigit() and int(text) in signal.valid_signals():
        return int(text)
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"]
    except KeyError:
        raise Rejected(f"container.stop_signal: {container.stop_signal!r} is no signal") from None


def log_limits(options: Mapping[str, str]) -> tuple[int, int]:
    """Return size and number of log files; raises Unsupported and Rejected."""
    values = read_options(DRIVER, OPTIONS, options)
    bytes_max, files_max = int(values["log_bytes_max"]), int(values["log_files_max"])
    if bytes_max < LOG_BYTES_LEAST or files_max < LOG_FILES_LEAST:
        raise Rejected(f"driver_options: logs need at least {LOG_FILES_LEAST} files of {LOG_BYTES_LEAST} bytes")
    return bytes_max, files_max


def find_user(container: ContainerSpec) -> User | None:
    """Return who the task runs as, None for our own user; raises Rejected when the node does not know or may not."""
    if not container.user and not container.groups:
        return None
    name, _, group = container.user.partition(":")
    entry = _find_passwd(name) if name else pwd.getpwuid(os.geteuid())
    if entry is None and not name.isdigit():
        raise Rejected(f"container.user: this node has no user {name!r}")
    uid = entry.pw_uid if entry is not None else int(name)
    own_gid = entry.pw_gid if entry is not None else 0
    gid = _find_group(group, "container.user") if group else own_gid
    groups = tuple(sorted(_find_group(text, "container.groups") for text in container.groups))
    if os.geteuid() == 0:
        return User(uid, gid, groups)
    if uid == os.geteuid() and gid == os.getegid() and not groups:
        return None
    raise Rejected("container.user: this node's agent does not run as root, so its tasks run as its own user")


def _find_passwd(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        return None


def _find_group(name: str, path: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Rejected(f"{path}: this node has no group {name!r}") from None


def _environment(
    container: ContainerSpec, ports: tuple[ChosenPort, ...], files: Mapping[str, str], generic: Mapping[str, str]
) -> tuple[str, ...]:
    variables = {"PATH": DEFAULT_PATH} | {name: os.environ[name] for name in INHERITED_ENV if name in os.environ}
    name = container.user.partition(":")[0]
    if name:
        entry = _find_passwd(name)
        variables["USER"] = entry.pw_name if entry is not None else name
        variables["HOME"] = entry.pw_dir if entry is not None else "/"
    variables |= port_environment(ports)
    variables |= files
    variables |= generic
    # What the user says comes last and wins.
    variables |= dict(entry.partition("=")[::2] for entry in container.env)
    return tuple(f"{name}={value}" for name, value in variables.items())


def _needs_setpriv(container: ContainerSpec) -> bool:
    return container.privileges.no_new_privileges or find_user(container) is not None


def _unsupported_payloads(bundle: TaskBundle) -> list[str]:
    if os.geteuid() == 0:
        return []
    return [f"container.{payload.kind}s.target.uid" for payload in bundle.payloads if not _is_ours(payload.target)]


def _is_ours(target: FileTarget) -> bool:
    """Tell whether a file may have the owner that it wants, or wants none: 0 is what it is when nothing was said."""
    return target.uid in {"0", str(os.geteuid())} and target.gid in {"0", str(os.getegid())}
