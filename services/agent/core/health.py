"""When a task is healthy: how its check is read, when it is asked, what the answers mean. The same for every driver.

Pure. A check asks again every ``interval_s``. ``retries`` failures in a row make the task unhealthy, but failures of questions asked within the start
period, or within the first interval, do not count until the task has once been healthy. In that time it is asked more often (after a
quarter of a second, then at doubling pauses up to ``start_interval_s``), so that a task that is up serves at once, however long its
interval is.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.agent.core.outcome import Observed
from services.kit.errors import Code, SwarmError
from services.kit.model.specs import ContainerSpec, HealthCheck

EARLY_PAUSE_S = 0.25
REASON_CHARS_MAX = 200
_DEFAULT = HealthCheck()


class BadCheck(SwarmError):
    """A health check that means nothing."""

    code = Code.INVALID_ARGUMENT


# -- what is asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskCommand:
    """Healthy is: this command, run inside the task, ends with 0."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskTcp:
    """Healthy is: a connection is accepted."""

    port: str
    """A port's name, its target number, or empty for the task's first port."""


@dataclass(frozen=True, slots=True)
class AskHttp:
    """Healthy is: a GET is answered with 2xx or 3xx."""

    port: str
    path: str


Question = AskCommand | AskTcp | AskHttp


def question_of(container: ContainerSpec) -> Question | None:
    """Return what a container's check asks, None when it has none or is told to have none; raises BadCheck."""
    check = container.health_check
    match () if check is None else check.test:
        case () | ("NONE",):
            return None
        case ("CMD", program, *arguments):
            return AskCommand((program, *arguments))
        case ("CMD-SHELL", line):
            return AskCommand(("/bin/sh", "-c", line))
        case ("TCP", port):
            return AskTcp(port.removeprefix(":"))
        case ("HTTP", target):
            return _http(target)
        case test:
            raise BadCheck(
                f"health check {list(test)!r}: write CMD and a command, CMD-SHELL and a line, TCP and a port, HTTP and :port/path"
            )


def _http(target: str) -> AskHttp:
    """Read ``/path``, ``:port/path`` or ``http://localhost:port/path``."""
    rest = target
    for prefix in ("http://localhost", "http://127.0.0.1", "http://"):
        if rest.startswith(prefix):
            rest = rest.removeprefix(prefix)
            break
    port, slash, path = rest.partition("/")
    if port and not port.startswith(":"):
        raise BadCheck(f"health check HTTP {target!r}: the task itself is asked, write :port/path or /path")
    if any(character <= " " for character in target):
        raise BadCheck(f"health check HTTP {target!r}: there is a blank in it")
    return AskHttp(port.removeprefix(":"), f"{slash or '/'}{path}")


def find_port(port: str, observed: Observed, node_addr: str) -> tuple[str, int]:
    """Return host and number where a task's port is reached from its node; raises BadCheck when it has no such port."""
    for known in observed.ports:
        if port in {known.name, str(known.target_port), ""}:
            return known.address or node_addr, known.port
    if not port.isdecimal():
        raise BadCheck(f"the task has no port {port!r}" if port else "the task publishes no port")
    return observed.address or node_addr, int(port)


# -- when, and what the answers mean ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """The deadline has passed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The question was answered."""

    reason: str = ""
    """Why it was answered with no; empty for yes."""


@dataclass(frozen=True, slots=True)
class Missed:
    """The question could not be asked, which says nothing of the task: its engine was away."""


Event = Due | Answered | Missed


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask now."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Healthy:
    """The first healthy answer."""


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """Too many failures in a row."""

    reason: str


Action = Ask | Healthy | Unhealthy


class HealthMachine:
    """One task's check. ``healthy`` says that it was healthy before: the task is adopted."""

    def __init__(self, check: HealthCheck, now: float, *, healthy: bool) -> None:
        self._interval_s = check.interval_s or _DEFAULT.interval_s
        self._timeout_s = check.timeout_s or _DEFAULT.timeout_s
        self._retries = check.retries or _DEFAULT.retries
        self._early_max_s = min(check.start_interval_s or _DEFAULT.start_interval_s, self._interval_s)
        self._early_s = min(EARLY_PAUSE_S, self._early_max_s)
        self._counts_from = now + max(check.start_period_s, self._interval_s)
        self._healthy = healthy
        self._failures = 0
        self._asked_at: float | None = None
        self._ask_at: float | None = now

    @property
    def healthy(self) -> bool:
        """True from the first healthy answer on."""
        return self._healthy

    def deadline(self) -> float | None:
        """Return when ``Due`` is wanted; None while a question is open."""
        return self._ask_at

    def step(self, now: float, event: Event) -> list[Action]:
        """Take one event at a monotonic time."""
        match event:
            case Due():
                if self._ask_at is None or now < self._ask_at:
                    return []
                self._ask_at, self._asked_at = None, now
                return [Ask(self._timeout_s)]
            case Answered(reason):
                assert self._asked_at is not None, "an answer follows a question"
                asked_at, self._asked_at = self._asked_at, None
                return self._failed(now, asked_at, reason) if reason else self._succeeded(now)
            case Missed():
                self._asked_at = None
                self._ask_at = now + self._early_max_s
                return []

    def check(self) -> None:
        """Assert the invariants."""
        assert (self._ask_at is None) == (self._asked_at is not None), "one question at a time, and always a next one"
        assert self._failures <= self._retries, "it is unhealthy at the limit"

    def describe(self) -> dict[str, str | int | float]:
        """Return a plain tree for people and tests."""
        return {"healthy": self._healthy, "failures": self._failures, "retries": self._retries}

    def _succeeded(self, now: float) -> list[Action]:
        self._ask_at = now + self._interval_s
        self._failures = 0
        if self._healthy:
            return []
        self._healthy = True
        return [Healthy()]

    def _failed(self, now: float, asked_at: float, reason: str) -> list[Action]:
        if not self._healthy and asked_at < self._counts_from:
            self._ask_at = now + self._early_s
            self._early_s = min(2 * self._early_s, self._early_max_s)
            return []
        self._failures = min(self._failures + 1, self._retries)
        self._ask_at = now + self._interval_s
        return [Unhealthy(reason)] if self._failures >= self._retries else []
