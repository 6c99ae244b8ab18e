"""What the verbs of a driver come back with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from services.kit.model.objects import PortStatus

Handle = NewType("Handle", bytes)
"""What a driver needs to find a started task again; opaque, at most 4 KiB, kept by the agent before RUNNING is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a task ended. Neither code nor signal: nobody saw it (``unknown``)."""

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    """Killed because it used more memory than it may."""
    finished_at: float = 0.0
    """Wall-clock seconds; 0 when unknown."""
    message: str = ""

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.code == 0

    @property
    def unknown(self) -> bool:
        """True when the way it ended was lost."""
        return self.code is None and self.signal is None

    @property
    def status(self) -> int | None:
        """The code as a shell gives it: 128 + signal for signals, None when unknown."""
        if self.code is not None:
            return self.code
        return None if self.signal is None else 128 + self.signal

    @property
    def reason(self) -> str:
        """Why it is not ``ok``, for people."""
        if self.message:
            return self.message
        if self.oom:
            return "task: killed, it used more memory than its limit"
        if self.signal is not None:
            return f"task: killed by signal {self.signal}"
        return "task: nobody saw how it ended" if self.code is None else f"task: non-zero exit ({self.code})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What can be seen of a started task."""

    container_id: str = ""
    pid: int = 0
    ports: tuple[PortStatus, ...] = ()
    address: str = ""
    """Where the task's own ports are reached from its node, when it has a network of its own; empty means the node's address."""


UNSEEN = Observed()
