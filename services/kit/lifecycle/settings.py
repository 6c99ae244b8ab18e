"""Settings of a process, read from the environment that its supervisor made for it.

Every process subclasses ``ProcessSettings`` in its ``config.py``: a field ``heartbeat_interval_s`` is read from
``SWARMBUS_HEARTBEAT_INTERVAL_S``, units are in the names, and every default is visible there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.kit.errors import InvalidArgument, Problem

ENVIRONMENT_PREFIX = "SWARMBUS_"
SOCKET_PATH_BYTES_MAX = 107
"""The kernel's bound for the path of a local socket."""
_LONGEST_SOCKET = "run/supervisor.sock"
_SHOWN_MAX = 80

LogLevel = Literal["debug", "info", "warn", "error", "fatal", "panic"]


class ProcessSettings(BaseSettings):
    """What every process of a node is told."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="ignore")

    state_dir: Path
    """The node's state directory, absolute."""
    log_level: LogLevel = "info"

    @field_validator("state_dir")
    @classmethod
    def _sockets_fit(cls, path: Path) -> Path:
        return checked_state_dir(path)

    @property
    def run_dir(self) -> Path:
        """Where the sockets of the node's processes are."""
        return self.state_dir / "run"

    def socket(self, name: str) -> str:
        """Return the path of a process's socket, for example ``socket("raft")``."""
        return str(self.run_dir / f"{name}.sock")


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def checked_state_dir(path: Path) -> Path:
    """Return the path made absolute; raises ValueError when the node's sockets would not fit into it."""
    absolute = path.absolute()
    room = SOCKET_PATH_BYTES_MAX - len(f"/{_LONGEST_SOCKET}")
    size = len(str(absolute).encode())
    if size > room:
        raise ValueError(f"the path has {size} bytes, local sockets leave room for {room}: choose a shorter one")
    return absolute


def load_settings(settings_class: type[SettingsT]) -> SettingsT:
    """Read settings from the environment; raises InvalidArgument with every mistake found."""
    try:
        return settings_class()
    except ValidationError as error:
        raise InvalidArgument.of(problems_of(error)) from None


def problems_of(error: ValidationError) -> tuple[Problem, ...]:
    """Return pydantic's complaints as the product's own, without values that were never given."""
    return tuple(
        Problem(
            path=".".join(str(part) for part in item["loc"]) or "settings",
            reason=item["msg"].removeprefix("Value error, "),
            value=str(item["input"])[:_SHOWN_MAX] if isinstance(item["input"], str | int | float) else "",
        )
        for item in error.errors(include_url=False)
    )
