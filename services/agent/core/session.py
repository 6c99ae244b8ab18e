"""The session of this node with the leader's dispatcher: register, beat, lose, wait, register again.

Pure. The shell finds managers, opens and closes streams; this machine says when. One session is the registration, the heartbeats, the
assignments and the log subscriptions together; when one of them fails all are given up, and the next attempt offers the old session's
id, so that the dispatcher can resume it. Nothing that happens here touches a task.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from services.kit.model.ids import SessionId

BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 8.0
REGISTER_TIMEOUT_S = 5.0
REFUSALS_MAX = 5
"""So many attempts in a row that say that the swarm does not know this node, and it is believed."""
STABLE_S = 8.0
"""A session that lived this long starts the back-off anew; the dispatcher refuses nodes that register more often."""


class Stage(StrEnum):
    """Where the session stands."""

    IDLE = "idle"
    WAITING = "waiting"
    SEARCHING = "searching"
    REGISTERING = "registering"
    REGISTERED = "registered"


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """Make a session, and another one whenever it is lost."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A manager was found, and registration asked for."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The first session message came."""

    session_id: SessionId


@dataclass(frozen=True, slots=True)
class Beaten:
    """A heartbeat was answered."""

    period_s: float


@dataclass(frozen=True, slots=True)
class Gap:
    """An assignments message was missing."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A part of the session failed."""

    reason: str
    session_unknown: bool = False
    """The dispatcher does not know the session's id: it is not offered again."""
    at_once: bool = False
    """Somebody told where to go, or it was our own wish: the next attempt needs no wait, unless the last one had none either."""
    refused: bool = False
    """The manager does not know this node, or no longer takes its certificate."""
    by_itself: bool = False
    """This node's own manager half said it, which knows no better than the node: it neither confirms nor denies a refusal."""


@dataclass(frozen=True, slots=True)
class Due:
    """The deadline has passed."""


Event = Begin | Connected | Registered | Beaten | Gap | Lost | Due

# -- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Find a manager and register, offering this session."""

    session_id: SessionId


@dataclass(frozen=True, slots=True)
class Close:
    """Give up everything of the present session."""

    reason: str


@dataclass(frozen=True, slots=True)
class OpenAssignments:
    """Open the assignments stream, in place of an older one."""

    session_id: SessionId


@dataclass(frozen=True, slots=True)
class Beat:
    """Send a heartbeat."""

    session_id: SessionId


@dataclass(frozen=True, slots=True)
class ReportAll:
    """Say the status of every task again."""


@dataclass(frozen=True, slots=True)
class SayReady:
    """The first session ever is registered."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The swarm does not know this node any more."""

    reason: str


Action = Open | Close | OpenAssignments | Beat | ReportAll | SayReady | GiveUp

# -- the machine ------------------------------------------------------------------------------------------------------


class SessionMachine:
    """One node's session."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.stage = Stage.IDLE
        self._session_id = SessionId("")
        self._back_off_s = 0.0
        self._hastened = False
        self._refusals = 0
        self._gaps = 0
        self._registered_at = 0.0
        self._said_ready = False
        self._open_at: float | None = None
        self._give_up_at: float | None = None
        self._beat_at: float | None = None
        self._assign_at: float | None = None

    def deadline(self) -> float | None:
        """Return when ``Due`` is wanted."""
        times = (self._open_at, self._give_up_at, self._beat_at, self._assign_at)
        return min((time for time in times if time is not None), default=None)

    def step(self, now: float, event: Event) -> list[Action]:
        """Take one event at a monotonic time; the actions are to be done in order."""
        match event:
            case Begin():
                assert self.stage is Stage.IDLE, "a session begins once"
                return self._open()
            case Connected():
                if self.stage is Stage.SEARCHING:
                    self.stage = Stage.REGISTERING
                    self._give_up_at = now + REGISTER_TIMEOUT_S
                return []
            case Registered(session_id):
                return self._registered(now, session_id)
            case Beaten(period_s):
                if self.stage is Stage.REGISTERED:
                    self._beat_at = now + period_s
                return []
            case Gap():
                return self._gap(now)
            case Lost():
                return self._lost(now, event)
            case Due():
                return self._due(now)
            case _:
                assert_never(event)

    def check(self) -> None:
        """Assert the invariants."""
        assert (self._open_at is not None) == (self.stage is Stage.WAITING), "only who waits has a next attempt"
        assert (self._give_up_at is not None) == (self.stage is Stage.REGISTERING), "only a registration times out"
        if self.stage is not Stage.REGISTERED:
            assert self._beat_at is None, "only a session beats"
            assert self._assign_at is None, "only a session has assignments"

    def describe(self) -> dict[str, str | float | int]:
        """Return a plain tree for people and tests."""
        return {
            "stage": self.stage.value,
            "session": self._session_id,
            "back_off_s": self._back_off_s,
            "gaps": self._gaps,
        }

    def _open(self) -> list[Action]:
        self.stage = Stage.SEARCHING
        self._open_at = None
        return [Open(self._session_id)]

    def _registered(self, now: float, session_id: SessionId) -> list[Action]:
        if self.stage is not Stage.REGISTERING:
            return []
        self.stage = Stage.REGISTERED
        self._session_id = session_id
        self._give_up_at = None
        self._registered_at = now
        self._hastened = False
        self._refusals = 0
        self._gaps = 0
        actions: list[Action] = [Beat(session_id), OpenAssignments(session_id), ReportAll()]
        if not self._said_ready:
            self._said_ready = True
            actions.append(SayReady())
        return actions

    def _gap(self, now: float) -> list[Action]:
        if self.stage is not Stage.REGISTERED:
            return []
        self._gaps += 1
        if self._gaps == 1:
            return [OpenAssignments(self._session_id)]
        self._assign_at = now + min(BACK_OFF_FIRST_S * 2.0 ** min(self._gaps, 16), BACK_OFF_MAX_S)
        return []

    def _lost(self, now: float, event: Lost) -> list[Action]:
        if self.stage in {Stage.IDLE, Stage.WAITING}:
            return []
        if self.stage is Stage.REGISTERED and now - self._registered_at >= STABLE_S:
            self._back_off_s = 0.0
        if not event.by_itself:
            self._refusals = self._refusals + 1 if event.refused else 0
        self._back_off_s = min(BACK_OFF_FIRST_S + 2 * self._back_off_s, BACK_OFF_MAX_S)
        self._hastened = event.at_once and not self._hastened
        delay_s = 0.0 if self._hastened else self._rng.uniform(0.0, self._back_off_s)
        self.stage = Stage.WAITING
        self._open_at = now + delay_s
        self._give_up_at = self._beat_at = self._assign_at = None
        if event.session_unknown:
            self._session_id = SessionId("")
        if self._refusals >= REFUSALS_MAX:
            return [Close(event.reason), GiveUp(event.reason)]
        return [Close(event.reason)]

    def _due(self, now: float) -> list[Action]:
        if self._open_at is not None and now >= self._open_at:
            return self._open()
        if self._give_up_at is not None and now >= self._give_up_at:
            return self._lost(now, Lost("session initiation timed out"))
        actions: list[Action] = []
        if self._beat_at is not None and now >= self._beat_at:
            self._beat_at = None
            actions.append(Beat(self._session_id))
        if self._assign_at is not None and now >= self._assign_at:
            self._assign_at = None
            actions.append(OpenAssignments(self._session_id))
        return actions
