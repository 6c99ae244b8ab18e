"""What taskd is told about a task and what it tells: plain records with their JSON form, shared with its client.

They are named tuples because dataclasses would cost taskd a megabyte.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple, cast

Json = dict[str, object]

LOG_BYTES_MAX = 10 << 20
LOG_FILES_MAX = 3
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class BadRecord(ValueError):
    """A record that cannot be what it says it is."""


class User(NamedTuple):
    """Who a task runs as, in numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class TaskSpec(NamedTuple):
    """A task to start. Everything is decided: no templates, no names to look up, the whole environment."""

    id: str
    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    """``NAME=value`` each. taskd adds ``SWARMBUS_TASK_ID`` and nothing of its own environment."""
    directory: str = "/"
    user: User | None = None
    """None: taskd's own user."""
    memory_bytes: int = 0
    nano_cpus: int = 0
    pids: int = 0
    no_new_privileges: bool = False
    oom_score_adj: int = 0
    stop_signal: int = 15
    log_bytes_max: int = LOG_BYTES_MAX
    """A log file that has grown to this size is followed by the next."""
    log_files_max: int = LOG_FILES_MAX
    """So many log files are kept."""
    scratch: tuple[str, ...] = ()
    """Directories of the driver that are deleted with the task."""


class Exit(NamedTuple):
    """How a task ended; neither code nor signal means that nobody saw it."""

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    at: float = 0.0
    """Wall-clock seconds."""
    message: str = ""


class TaskInfo(NamedTuple):
    """What taskd knows of a task."""

    id: str
    pid: int
    started_at: float
    """Wall-clock seconds."""
    exit: Exit | None = None
    dropped_bytes: int = 0
    """Output that could not be written, because the disk was full."""


class Usage(NamedTuple):
    """What a task uses now."""

    cpu_s: float
    memory_bytes: int
    pids: int


class Version(NamedTuple):
    """What a taskd is and what it can do on this node."""

    protocol: int
    build: int
    """Checksum of its sources: differs from the client's when one of them was upgraded."""
    pid: int
    tasks_dir: str
    kill_by: str
    """``cgroup``, ``freezer``, or ``process-group`` where no group of the kernel can be used."""
    unenforced: tuple[str, ...] = ()
    """Limits that are not enforced here: ``cpu``, ``memory``, ``pids``."""


def spec_to_json(spec: TaskSpec) -> Json:
    """Return the JSON form of a spec, without what is at its default."""
    fields = {name: value for name, value in spec._asdict().items() if value != TaskSpec._field_defaults.get(name)}
    if spec.user is not None:
        fields["user"] = spec.user._asdict()
    return fields


def spec_from_json(value: object) -> TaskSpec:
    """Read a spec; raises BadRecord for what no task could run with."""
    fields = _object(value)
    unknown = fields.keys() - set(TaskSpec._fields)
    if unknown:
        raise BadRecord(f"unknown fields: {', '.join(sorted(unknown))}")
    for name in ("command", "env", "scratch"):
        fields[name] = _texts(fields.get(name, []), name)
    for name in ("memory_bytes", "nano_cpus", "pids", "oom_score_adj", "stop_signal", "log_bytes_max", "log_files_max"):
        if not isinstance(fields.get(name, 0), int):
            raise BadRecord(f"{name} is not a number")
    if fields.get("user") is not None:
        user = _object(fields["user"])
        groups = cast("list[int]", user.get("groups", []))
        fields["user"] = User(cast("int", user["uid"]), cast("int", user["gid"]), tuple(groups))
    spec = TaskSpec(**fields)  # type: ignore[arg-type]
    check_id(spec.id)
    if not spec.command:
        raise BadRecord("command is empty")
    if not spec.directory.startswith("/"):
        raise BadRecord("directory is not absolute")
    if any("\0" in text for text in (*spec.command, *spec.env, spec.directory)):
        raise BadRecord("a text holds a NUL byte")
    if spec.log_files_max < 2 or spec.log_bytes_max < 1024:
        raise BadRecord("logs need at least two files of 1024 bytes")
    return spec


def check_id(task_id: object) -> str:
    """Return the id if it can be the name of a directory; raises BadRecord."""
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise BadRecord(f"{task_id!r} is not a task id")
    return task_id


def exit_from_json(value: object) -> Exit:
    """Read how a task ended."""
    return Exit(**_object(value))  # type: ignore[arg-type]


def info_to_json(info: TaskInfo) -> Json:
    """Return the JSON form of what taskd knows of a task."""
    return {**info._asdict(), "exit": None if info.exit is None else info.exit._asdict()}


def info_from_json(value: object) -> TaskInfo:
    """Read what taskd knows of a task."""
    fields = _object(value)
    if fields.get("exit") is not None:
        fields["exit"] = exit_from_json(fields["exit"])
    return TaskInfo(**fields)  # type: ignore[arg-type]


def version_from_json(value: object) -> Version:
    """Read what a taskd is."""
    fields = _object(value)
    fields["unenforced"] = _texts(fields["unenforced"], "unenforced")
    return Version(**fields)  # type: ignore[arg-type]


def usage_from_json(value: object) -> Usage:
    """Read what a task uses."""
    return Usage(**_object(value))  # type: ignore[arg-type]


def read_object(text: str | bytes) -> Json:
    """Read one JSON object; raises BadRecord."""
    try:
        return _object(json.loads(text))
    except ValueError as error:
        raise BadRecord(f"not JSON: {error}") from None


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise BadRecord("not an object")
    return dict(cast("Json", value))


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise BadRecord(f"{name} is not a list of texts")
    return tuple(cast("list[str]", value))
