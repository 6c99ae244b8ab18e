"""Settings of a process, read from the environment that its supervisor made for it.

Every process subclasses ``ProcessSettings`` in its ``config.py``: a field ``heartbeat_interval_s`` is read from
``SWARMBUS_HEARTBEAT_INTERVAL_S``, units are in the names, and every default is visible there. Only the supervisor, which people configure,
has richer settings: pydantic costs each process 60 ms and 11 MB, and a node has five that are told everything by their supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from services.kit.errors import InvalidArgument, Problem

ENVIRONMENT_PREFIX = "SWARMBUS_"
SOCKET_PATH_BYTES_MAX = 107
"""The kernel's bound for the path of a local socket."""
_LONGEST_SOCKET = "run/supervisor.sock"
_SHOWN_MAX = 80

Positive = Annotated[float, msgspec.Meta(gt=0)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]
LogLevel = Literal["debug", "info", "warn", "error", "fatal", "panic"]


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every process of a node is told. Subclasses say ``frozen=True, kw_only=True`` again."""

    state_dir: Path
    """The node's state directory, absolute."""
    log_level: LogLevel = "info"
    metrics_interval_s: float = 0.0
    """How often the supervisor is told what this process measures; 0 when nobody wants to know."""

    @property
    def run_dir(self) -> Path:
        """Where the sockets of the node's processes are."""
        return self.state_dir / "run"

    def socket(self, name: str) -> str:
        """Return the path of a process's socket, for example ``socket("raft")``."""
        return str(self.run_dir / f"{name}.sock")


SettingsT = TypeVar("SettingsT", bound=ProcessSettings)


def checked_state_dir(path: Path) -> Path:
    """Return the path made absolute; raises ValueError when the node's sockets would not fit into it."""
    absolute = path.absolute()
    room = SOCKET_PATH_BYTES_MAX - len(f"/{_LONGEST_SOCKET}")
    size = len(str(absolute).encode())
    if size > room:
        raise ValueError(f"the path has {size} bytes, local sockets leave room for {room}: choose a shorter one")
    return absolute


def load_settings(settings_class: type[SettingsT], environment: Mapping[str, str] = os.environ) -> SettingsT:
    """Read settings from the environment; raises InvalidArgument with every mistake found.

    Numbers, words and truth values are written plainly, lists as JSON.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in msgspec.structs.fields(settings_class):
        text = environment.get(f"{ENVIRONMENT_PREFIX}{field.name.upper()}")
        if text is None:
            if field.required:
                problems.append(Problem(path=field.name, reason="is missing"))
            continue
        try:
            values[field.name] = _parse(text, field.type)
        except (msgspec.MsgspecError, ValueError) as error:
            reason = str(error).replace("`", "'")
            problems.append(Problem(path=field.name, reason=reason, value=text[:_SHOWN_MAX]))
    if problems:
        raise InvalidArgument.of(tuple(problems))
    return settings_class(**values)


def _parse(text: str, kind: Any) -> Any:
    if text.startswith(("[", "{")):
        return msgspec.json.decode(text, type=kind)
    return msgspec.convert(text, kind, strict=False, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    assert kind is Path, f"settings do not know the type {kind}"
    return checked_state_dir(Path(value))
