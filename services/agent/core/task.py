"""The life of one task on its node: a pure machine (SwarmKit's agent, one transition at a time).

``advance`` is the rule by itself: what follows from a desired and an observed state. ``TaskMachine`` applies it: events come in
(the wish changed, a verb came back, a retry is due, the task was taken away), actions go out (run a verb, cancel it, report a
status, forget the task). The shell runs the verbs; at most one is under way per task.

What must stay true: the observed state never goes back; after a terminal state no verb but REMOVE runs; a task that was taken
away ends in exactly one ``Forget``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import msgspec

from services.agent.core.now import Now
from services.agent.core.outcome import UNSEEN, Exit, Handle, Observed
from services.kit.model.ids import TaskId
from services.kit.model.objects import TaskStatus
from services.kit.model.states import TaskState

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 30.0
REMOVE_ATTEMPTS_MAX = 8
"""Then the task is forgotten; what is left of it is found and discarded when the agent starts again."""


class Verb(StrEnum):
    """What the shell asks of a controller."""

    PREPARE = "prepare"
    START = "start"
    READY = "ready"
    """Wait for the first healthy answer; only for controllers that can tell."""
    WAIT = "wait"
    SHUTDOWN = "shutdown"
    REMOVE = "remove"


# -- the rule ---------------------------------------------------------------------------------------------------------


def advance(desired: TaskState, state: TaskState) -> tuple[TaskState, str] | Verb | None:
    """Return the next state with its message, or the verb that leads to it, or None when there is nothing to do."""
    if desired >= TaskState.SHUTDOWN:
        return Verb.SHUTDOWN if state < TaskState.COMPLETE else None
    if state > desired:
        return None
    match state:
        case TaskState.PREPARING:
            return Verb.PREPARE
        case TaskState.STARTING:
            return Verb.START
        case TaskState.RUNNING:
            return Verb.WAIT
        case _ if state == desired:
            return None
        case TaskState.NEW | TaskState.PENDING | TaskState.ASSIGNED:
            return TaskState.ACCEPTED, "accepted"
        case TaskState.ACCEPTED:
            return TaskState.PREPARING, "preparing"
        case TaskState.READY:
            return TaskState.STARTING, "starting"
        case _:
            return None


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The task is in our hands: fresh, or read back after a restart of the agent."""


@dataclass(frozen=True, slots=True)
class Desire:
    """The dispatcher's wish; a lower one than before is ignored."""

    state: TaskState


@dataclass(frozen=True, slots=True)
class Prepared:
    """PREPARE succeeded."""


@dataclass(frozen=True, slots=True)
class Started:
    """START succeeded."""

    handle: Handle
    observed: Observed
    gated: bool
    """The controller can tell when the task serves: READY comes next."""


@dataclass(frozen=True, slots=True)
class Served:
    """READY succeeded."""

    observed: Observed


@dataclass(frozen=True, slots=True)
class Ended:
    """WAIT came back."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Stopped:
    """SHUTDOWN succeeded; with the task's end when it ever ran."""

    exit: Exit | None


@dataclass(frozen=True, slots=True)
class Removed:
    """REMOVE succeeded."""


@dataclass(frozen=True, slots=True)
class Erred:
    """The verb under way failed."""

    message: str
    exit: Exit | None = None
    retry_after_s: float | None = None
    """Try again, not sooner than this; None means it is final."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The verb under way has something to tell."""

    message: str


@dataclass(frozen=True, slots=True)
class Due:
    """The deadline has passed."""


@dataclass(frozen=True, slots=True)
class TakenAway:
    """The task is no longer assigned to this node."""


Event = Begin | Desire | Prepared | Started | Served | Ended | Stopped | Removed | Erred | Progress | Due | TakenAway

# -- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """Run this verb. A ``Cancel`` before it means: after the end of the one that was cancelled."""

    verb: Verb


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the verb under way; its result is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Report:
    """Keep this status and tell the dispatcher."""

    status: TaskStatus
    handle: Handle | None


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is left to do for this task."""

    left_behind: str = ""
    """Why it could not be removed; empty when it was."""


Action = Run | Cancel | Report | Forget

# -- the machine ------------------------------------------------------------------------------------------------------


class TaskMachine:
    """One task. ``step`` takes an event and returns what to do, in order."""

    __slots__ = ("_attempts", "_desired", "_handle", "_retry_at", "_status", "_taken_away", "_verb", "task_id")

    def __init__(
        self, task_id: TaskId, *, desired: TaskState, status: TaskStatus, handle: Handle | None = None
    ) -> None:
        self.task_id = task_id
        self._desired = desired
        self._status = status
        self._handle = handle
        self._verb: Verb | None = None
        self._attempts = 0
        self._retry_at: float | None = None
        self._taken_away = False

    @property
    def status(self) -> TaskStatus:
        """What is observed of the task."""
        return self._status

    @property
    def handle(self) -> Handle | None:
        """The driver's handle, once the task was started."""
        return self._handle

    def deadline(self) -> float | None:
        """Return when ``Due`` is wanted."""
        return self._retry_at

    def step(self, now: Now, event: Event) -> list[Action]:
        """Take one event."""
        match event:
            case Begin():
                return self._proceed(now)
            case Desire(state):
                return self._wish(now, state)
            case TakenAway():
                return self._take_away(now)
            case Due():
                if self._retry_at is None or now.monotonic < self._retry_at:
                    return []
                self._retry_at = None
                return self._proceed(now)
            case Erred():
                return self._failed(now, event)
            case Progress(message):
                return self._note(now, message=message, error=self._status.error) if self._verb else []
            case Removed():
                self._verb = None
                return [Forget()]
            case Prepared() | Started() | Served() | Ended() | Stopped():
                return self._succeeded(now, event)
            case _:
                assert_never(event)

    def check(self) -> None:
        """Assert the invariants."""
        assert self._verb is None or self._retry_at is None, "a verb and its retry cannot both be pending"
        if self._status.state.terminal:
            assert self._verb in {None, Verb.REMOVE}, f"{self._verb} runs after the task's end"

    def describe(self) -> dict[str, str | int]:
        """Return a plain tree for people and tests."""
        return {
            "task": self.task_id,
            "desired": self._desired.name,
            "state": self._status.state.name,
            "verb": self._verb or "",
            "attempts": self._attempts,
            "error": self._status.error,
            "taken_away": self._taken_away,
        }

    # -- events that come from outside --

    def _wish(self, now: Now, state: TaskState) -> list[Action]:
        if state <= self._desired or self._taken_away:
            return []
        self._desired = state
        if state >= TaskState.SHUTDOWN and self._verb is not Verb.SHUTDOWN:
            return self._interrupt(now)
        if self._verb is None and self._retry_at is None:
            return self._proceed(now)
        return []

    def _take_away(self, now: Now) -> list[Action]:
        if self._taken_away:
            return []
        self._taken_away = True
        return self._interrupt(now)

    def _interrupt(self, now: Now) -> list[Action]:
        actions: list[Action] = [Cancel()] if self._verb else []
        self._verb = None
        self._retry_at = None
        self._attempts = 0
        return actions + self._proceed(now)

    # -- what verbs came back with --

    def _succeeded(self, now: Now, event: Prepared | Started | Served | Ended | Stopped) -> list[Action]:
        self._verb = None
        self._attempts = 0
        match event:
            case Prepared():
                report = self._move(now, TaskState.READY, "prepared")
            case Started():
                self._handle = event.handle
                if event.gated:
                    self._verb = Verb.READY
                    return [*self._note(now, observed=event.observed), Run(Verb.READY)]
                report = self._move(now, TaskState.RUNNING, "started", observed=event.observed)
            case Served():
                report = self._move(now, TaskState.RUNNING, "started", observed=event.observed)
            case Ended(exit=end) if end.ok:
                report = self._move(now, TaskState.COMPLETE, "finished", end=end)
            case Ended(exit=end):
                report = self._move(now, TaskState.FAILED, "finished", end=end, error=end.reason)
            case Stopped(exit=end):
                report = self._move(now, TaskState.SHUTDOWN, "shutdown", end=end)
            case _:
                assert_never(event)
        return [report, *self._proceed(now)]

    def _failed(self, now: Now, event: Erred) -> list[Action]:
        verb, self._verb = self._verb, None
        self._attempts += 1
        if verb is Verb.REMOVE:
            if self._attempts >= REMOVE_ATTEMPTS_MAX:
                return [Forget(left_behind=event.message)]
            self._retry_later(now, event.retry_after_s or 0.0)
            return []
        if event.retry_after_s is not None:
            self._retry_later(now, event.retry_after_s)
            return self._note(now, error=event.message)
        state = TaskState.REJECTED if self._status.state < TaskState.STARTING else TaskState.FAILED
        message = "rejected" if state is TaskState.REJECTED else "failed"
        return [self._move(now, state, message, end=event.exit, error=event.message), *self._proceed(now)]

    def _retry_later(self, now: Now, at_least_s: float) -> None:
        back_off_s = min(RETRY_FIRST_S * 2.0 ** min(self._attempts - 1, 8), RETRY_MAX_S)
        self._retry_at = now.monotonic + max(back_off_s, at_least_s)

    # -- going on --

    def _proceed(self, now: Now) -> list[Action]:
        """Move until a verb runs or nothing is left to do."""
        if self._taken_away:
            return [self._run(Verb.REMOVE)]
        actions: list[Action] = []
        while True:
            match advance(self._desired, self._status.state):
                case None:
                    return actions
                case Verb() as verb:
                    return [*actions, self._run(verb)]
                case state, message:
                    actions.append(self._move(now, state, message))

    def _run(self, verb: Verb) -> Run:
        assert self._verb is None, f"{verb} while {self._verb} runs"
        self._verb = verb
        self._retry_at = None
        return Run(verb)

    def _move(
        self,
        now: Now,
        state: TaskState,
        message: str,
        *,
        observed: Observed = UNSEEN,
        end: Exit | None = None,
        error: str = "",
    ) -> Report:
        assert state > self._status.state, f"{self.task_id}: {self._status.state.name} never goes back to {state.name}"
        status = _with_observed(self._status, observed)
        self._status = msgspec.structs.replace(
            status,
            state=state,
            timestamp=max(now.wall, status.timestamp),
            message=message,
            error=error,
            exit_code=status.exit_code if end is None else end.status,
        )
        return Report(self._status, self._handle)

    def _note(self, now: Now, *, observed: Observed = UNSEEN, message: str = "", error: str = "") -> list[Action]:
        """Record what changed without a change of state; nothing changed: nothing to report."""
        status = _with_observed(self._status, observed)
        status = msgspec.structs.replace(status, message=message or status.message, error=error)
        if status == self._status and observed is UNSEEN:
            return []
        self._status = msgspec.structs.replace(status, timestamp=max(now.wall, status.timestamp))
        return [Report(self._status, self._handle)]


def _with_observed(status: TaskStatus, observed: Observed) -> TaskStatus:
    if observed is UNSEEN:
        return status
    return msgspec.structs.replace(status, container_id=observed.container_id, pid=observed.pid, ports=observed.ports)
