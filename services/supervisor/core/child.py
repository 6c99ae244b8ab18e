"""The machine of one child process: started, ready, restarted with back-off, stopped, given up.

Driven by ``shell/children.py``, one per child. Events in, actions out, time as a number; the process itself, signals and timers are the
shell's. What must stay true: at most one process at a time, and a child that was told to stop is never started again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from services.kit.lifecycle.exit_codes import ExitCode

BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 15.0
STEADY_S = 10.0
"""A child that lived this long starts again at once, and its back-off anew."""
STOP_GRACE_S = 10.0
"""Time between the polite signal and the other one; more than a child gives itself."""


class ChildState(StrEnum):
    """Where a child stands."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


# -- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Run the child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The child reported that it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The process ended: its exit code, or minus the signal that ended it."""

    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Stop the child; ``force`` kills it on the spot."""

    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """The deadline passed."""


ChildEvent = Begin | Served | Exited | Stop | Timer

# -- actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """Start the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """Send SIGTERM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """Send SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something for the log: an ending nobody asked for."""

    event: str
    cause: str
    restart_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """A restart cannot help: the node ends with this reason."""

    code: ExitCode
    reason: str


ChildAction = Spawn | Terminate | Kill | Note | GiveUp

_KNOWN = {int(code): code for code in ExitCode}
_REASONS = {
    ExitCode.USAGE: "its settings are wrong",
    ExitCode.IDENTITY_LOST: "the node is no longer part of the cluster",
    ExitCode.STORE_DAMAGED: "its store is damaged",
    ExitCode.LOCKED: "its state is in use or locked",
}


class Child:
    """One child's machine."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.state = ChildState.STOPPED
        self.since = 0.0
        self.restarts = 0
        self._rng = rng
        self._spawned_at = 0.0
        self._failures = 0
        self._stop_wanted = False
        self._deadline: float | None = None

    @property
    def alive(self) -> bool:
        """True while there is a process."""
        return self.state in {ChildState.STARTING, ChildState.READY, ChildState.STOPPING}

    def deadline(self) -> float | None:
        """Return when to send Timer, None for never."""
        return self._deadline

    def check(self) -> None:
        """Assert what must stay true."""
        waiting = self.state in {ChildState.BACKING_OFF, ChildState.STOPPING}
        assert waiting or self._deadline is None, f"{self.name}: a timer runs in state {self.state}"

    def step(self, now: float, event: ChildEvent) -> list[ChildAction]:
        """Take one event and return what to do, in order."""
        actions = self._step(now, event)
        self.check()
        return actions

    def _step(self, now: float, event: ChildEvent) -> list[ChildAction]:
        match event:
            case Begin():
                assert not self._stop_wanted, f"{self.name} was told to stop"
                return [] if self.alive or self.state is ChildState.BACKING_OFF else self._spawn(now)
            case Served():
                if self.state is ChildState.STARTING:
                    self._enter(ChildState.READY, now)
                return []
            case Exited(code=code):
                return self._exited(now, code)
            case Stop(force=force):
                return self._stop(now, force=force)
            case Timer():
                return self._timer(now)

    def _spawn(self, now: float) -> list[ChildAction]:
        self._enter(ChildState.STARTING, now)
        self._spawned_at = now
        return [Spawn()]

    def _exited(self, now: float, code: int) -> list[ChildAction]:
        assert self.alive, f"{self.name} ended without running"
        if self._stop_wanted:
            self._enter(ChildState.STOPPED, now)
            return []
        known = _KNOWN.get(code)
        if known is not None and known.final:
            self._enter(ChildState.FAILED, now)
            reason = f"the {self.name} process cannot go on: {_REASONS[known]} (its log says more)"
            return [GiveUp(code=known, reason=reason)]
        self._failures = 0 if now - self._spawned_at >= STEADY_S else self._failures + 1
        self.restarts += 1
        delay_s = self._back_off()
        note = Note(event="process died", cause=_cause(code), restart_in_s=round(delay_s, 3))
        if delay_s == 0:
            return [note, *self._spawn(now)]
        self._enter(ChildState.BACKING_OFF, now, deadline=now + delay_s)
        return [note]

    def _back_off(self) -> float:
        """The first death of a steady child costs no wait; then it doubles, with jitter down to a half."""
        if self._failures == 0:
            return 0.0
        full_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** min(self._failures - 1, 20))
        return full_s * (0.5 + self._rng.random() / 2)

    def _stop(self, now: float, *, force: bool) -> list[ChildAction]:
        first = not self._stop_wanted
        self._stop_wanted = True
        if not self.alive:
            if self.state is not ChildState.FAILED:
                self._enter(ChildState.STOPPED, now)
            return []
        if force:
            self._enter(ChildState.STOPPING, now)
            return [Kill()]
        if not first:
            return []
        self._enter(ChildState.STOPPING, now, deadline=now + STOP_GRACE_S)
        return [Terminate()]

    def _timer(self, now: float) -> list[ChildAction]:
        if self._deadline is None or now < self._deadline:
            return []
        if self.state is ChildState.BACKING_OFF:
            return self._spawn(now)
        assert self.state is ChildState.STOPPING
        self._deadline = None
        return [Kill()]

    def _enter(self, state: ChildState, now: float, *, deadline: float | None = None) -> None:
        self.state = state
        self.since = now
        self._deadline = deadline


def _cause(code: int) -> str:
    if code < 0:
        return f"ended by signal {-code}"
    if code == ExitCode.CRASH:
        return "a broken invariant or an unexpected error: its log has the traceback"
    return f"exit code {_KNOWN[code].name if code in _KNOWN else code}"
