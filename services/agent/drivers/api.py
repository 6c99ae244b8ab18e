"""The driver contract: what runs tasks, and what the agent asks of it.

A driver is found by name (``drivers/__init__.py``, or the entry point group ``swarmbus.drivers``), loaded once, and asked for one
controller per task. The agent calls the controller's verbs in the order prepare, start, wait, shutdown or terminate, remove,
close; at most one runs at a time, except that ``shutdown`` and ``terminate`` may come while ``wait`` is pending.

What must stay true of every driver, and ``tests/conformance`` checks it:

- Every verb is idempotent, also across a restart of the agent: what a task id made is found again by that task id.
- Every verb may be cancelled; calling it again goes on where it stood.
- The task runs on when the agent ends. ``close`` and ``unload`` drop local resources and leave tasks alone.
- A stream that its reader closes (``aclose``) lets go of everything at once.
- ``remove`` succeeds in every state, also after a crash and when nothing exists.
- A field that the driver cannot honour is refused by ``prepare`` with ``Unsupported``; nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from services.agent.core.bundle import NodeFacts, TaskBundle
from services.agent.core.credentials import Credentials
from services.agent.core.outcome import Exit, Handle, Observed
from services.agent.drivers.task_ports import PortRange
from services.kit.errors import Code, SwarmError
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import ClusterId, NodeId, TaskId
from services.kit.model.objects import EngineDescription
from services.kit.model.specs import Resources
from services.kit.model.states import LogStream, MountType
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

__all__ = [
    "API_VERSION",
    "AlreadyPrepared",
    "AlreadyStarted",
    "Capabilities",
    "Command",
    "Controller",
    "Conversation",
    "Driver",
    "DriverContext",
    "DriverError",
    "Exit",
    "Failed",
    "Filesystem",
    "Fingerprint",
    "Handle",
    "Line",
    "NodeFacts",
    "Observed",
    "Option",
    "OptionKind",
    "Recovered",
    "Rejected",
    "Stats",
    "SupportsAttach",
    "SupportsExec",
    "SupportsHealth",
    "SupportsLogs",
    "SupportsProgress",
    "SupportsSignal",
    "SupportsStats",
    "TaskBundle",
    "TaskGone",
    "Temporary",
    "Unsupported",
]

API_VERSION = 1

# -- what a driver is given -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverContext:
    """What a driver may use; handed to ``load`` and valid until ``unload`` has returned."""

    node_id: NodeId
    cluster_id: ClusterId
    hostname: str
    addr: str
    """Host part of the node's address: where ports for other nodes are opened. Empty means all addresses."""
    state_dir: Path
    """The node's state directory. A driver keeps its files in ``worker/<driver>`` below it."""
    run_dir: Path
    """The node's directory of sockets (0700)."""
    docker_socket: str = "/var/run/docker.sock"
    """Where a Docker engine may listen."""
    ports: PortRange | None = None
    """The node's ports for tasks on its own network, shared by all drivers; None: the driver has its own."""
    credentials: Credentials = field(default_factory=Credentials)
    """The swarm's credentials for registries of images."""
    clock: Clock
    log: Log
    tasks: TaskOwner
    """Owns what the driver runs in the background; a failure there ends the agent."""


# -- what a driver says of itself -------------------------------------------------------------------------------------


class Filesystem(StrEnum):
    """What a task sees as its root."""

    NONE = "none"
    """The node's own."""
    ROOTFS = "rootfs"
    IMAGE = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a driver can do; constant while it is loaded."""

    filesystem: Filesystem = Filesystem.NONE
    networks: bool = False
    mounts: frozenset[MountType] = frozenset()
    limits: frozenset[str] = frozenset()
    """Fields of the limits that can be enforced: ``nano_cpus``, ``memory_bytes``, ``pids_limit`` …; see also Fingerprint."""
    live_update: frozenset[str] = frozenset()
    """Fields of the task's spec that ``update`` applies without a restart."""


class OptionKind(StrEnum):
    """How the text of a driver option is read."""

    TEXT = "text"
    INTEGER = "integer"
    SECONDS = "seconds"
    FLAG = "flag"
    """``true`` or ``false``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One key of ``TaskSpec.driver_options`` that a driver understands."""

    name: str
    kind: OptionKind
    default: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Whether a driver can run tasks now, and on what."""

    healthy: bool
    reason: str = ""
    """Why it cannot, for people."""
    version: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    """Generic resources that the driver found; zero elsewhere."""
    unenforced: tuple[str, ...] = ()
    """Limits that this node cannot enforce, without the driver's name: ``memory``, ``cpu``, ``pids``."""
    engine: EngineDescription | None = None
    """The engine behind the driver, where there is one."""


# -- what a task tells ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """Something of ours that a driver found on the node."""

    task_id: TaskId
    handle: Handle
    running: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a task's output, without its newline."""

    timestamp: float
    stream: LogStream
    data: bytes


# -- the protocols ----------------------------------------------------------------------------------------------------


class Controller(Protocol):
    """One task in a driver's hands."""

    async def update(self, bundle: TaskBundle) -> None:
        """Take over a changed bundle of the same task; fields outside ``Capabilities.live_update`` do not change."""

    async def prepare(self) -> None:
        """Check the spec and make everything but the running process. May raise AlreadyPrepared, which is success."""

    async def start(self) -> Handle:
        """Start the process. AlreadyStarted is success as well, also when the process has ended since."""

    async def inspect(self) -> Observed:
        """Return what can be seen; valid from ``start`` on, also after the end. Raises TaskGone."""

    async def wait(self) -> Exit:
        """Wait for the end and return it, as often as asked. Raises TaskGone when nothing was ever started or all is removed."""

    async def shutdown(self, grace_s: float) -> None:
        """Ask the task to stop, kill it after ``grace_s``, return when it has ended. Nothing there, or ended: success."""

    async def terminate(self) -> None:
        """Kill it at once, return when it has ended. Nothing there, or ended: success."""

    async def remove(self) -> None:
        """End it if need be and remove every trace, logs included. Nothing there: success."""

    async def close(self) -> None:
        """Drop local resources; the task and its traces stay."""


class Driver(Protocol):
    """Runs tasks of one kind."""

    name: ClassVar[str]
    api: ClassVar[int]
    """The API_VERSION it was written for."""

    async def load(self, context: DriverContext) -> None:
        """Get ready. A missing engine is no error: the fingerprint says so."""

    async def unload(self) -> None:
        """Leave; tasks run on."""

    def capabilities(self) -> Capabilities:
        """Return what it can do."""

    def options(self) -> tuple[Option, ...]:
        """Return the driver options it understands; any other key is Unsupported."""

    def fingerprint(self) -> AsyncGenerator[Fingerprint]:
        """Yield the state of the driver: the first at once (within 5 s), later ones on change, without end."""

    def recover(self) -> AsyncGenerator[Recovered]:
        """Yield everything of this node that the driver still holds, running or ended, then end."""

    async def controller(self, bundle: TaskBundle, handle: Handle | None = None) -> Controller:
        """Return the controller of a task; with its handle when the agent has one. Touches nothing."""

    async def discard(self, orphan: Recovered) -> None:
        """End and remove a recovered task that the agent does not know; idempotent."""


@runtime_checkable
class SupportsHealth(Protocol):
    """A controller that knows when its task serves."""

    async def ready(self) -> None:
        """Return once the task answers for the first time; raises Failed when it never will. Called after ``start``."""


@runtime_checkable
class SupportsLogs(Protocol):
    """A controller that has its task's output."""

    def logs(self, options: LogOptions) -> AsyncGenerator[tuple[Line, ...]]:
        """Yield batches of lines (never empty, at most about 64 KiB) in the order written.

        Without ``follow`` it ends at the present end. With it, it goes on until the task has ended and all was read.
        """


@runtime_checkable
class SupportsSignal(Protocol):
    """A controller that can send signals."""

    async def signal(self, number: int) -> None:
        """Send a signal to the task's main process."""


@runtime_checkable
class SupportsStats(Protocol):
    """A controller that can measure."""

    async def stats(self) -> Stats:
        """Return what the task uses now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a task uses."""

    cpu_s: float = 0.0
    """Processor seconds since the start."""
    memory_bytes: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to run inside a task."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    """``NAME=value`` each, over the task's own."""
    dir: str = ""
    """Empty means the task's."""
    user: str = ""
    """Empty means the task's."""
    terminal: bool = False
    """Give it a terminal; its output is then all STDOUT."""
    input: bool = False
    """It will be written to; otherwise its input is empty."""


class Conversation(Protocol):
    """A process inside a task that somebody talks with."""

    def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield what it writes, in pieces of at most 64 KiB, until it writes no more; asked once. Nothing is read ahead without bound."""

    async def write(self, data: bytes) -> None:
        """Give it input; waits while it does not read. What it can no longer read is dropped."""

    async def close_input(self) -> None:
        """Let it see the end of its input."""

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal its size; without a terminal nothing happens."""

    async def wait(self) -> int | None:
        """Return its exit code as a shell gives it, None when nobody knows; asked when its output has ended."""

    async def close(self) -> None:
        """End the conversation: a command is killed, a task's own process runs on. Idempotent."""


@runtime_checkable
class SupportsExec(Protocol):
    """A controller that can run a command inside its task."""

    async def open_exec(self, command: Command) -> Conversation:
        """Start a command; raises Failed and TaskGone."""


@runtime_checkable
class SupportsAttach(Protocol):
    """A controller that can talk with its task's main process."""

    async def attach(self) -> Conversation:
        """Join; what was written before is not seen. Raises TaskGone."""


@runtime_checkable
class SupportsProgress(Protocol):
    """A controller that has something to tell while a verb takes long, for example what it downloads."""

    def on_progress(self, tell: Callable[[str], None]) -> None:
        """Tell this one from now on, at most once in a second or so."""


# -- errors -----------------------------------------------------------------------------------------------------------


class DriverError(SwarmError):
    """Anything a verb may raise. Unless a subclass says otherwise it is final: REJECTED before STARTING, FAILED after."""

    code = Code.FAILED_PRECONDITION


class Rejected(DriverError):
    """This node cannot run the task; do not try again here."""


class Failed(DriverError):
    """The task ended, or never came up."""

    def __init__(self, message: str, end: Exit | None = None) -> None:
        super().__init__(message)
        self.end = end


class Temporary(DriverError):
    """It may work later; the agent calls the same verb again."""

    code = Code.UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unsupported(Rejected):
    """The spec asks for what the driver cannot honour."""

    code = Code.UNIMPLEMENTED

    def __init__(self, driver: str, fields: tuple[str, ...]) -> None:
        assert fields, "an Unsupported names its fields"
        super().__init__(f"the {driver} driver does not support {', '.join(fields)}")
        self.fields = fields


class AlreadyPrepared(DriverError):
    """``prepare`` was done before: success."""

    code = Code.ALREADY_EXISTS


class AlreadyStarted(DriverError):
    """``start`` was done before: success."""

    code = Code.ALREADY_EXISTS

    def __init__(self, handle: Handle) -> None:
        super().__init__("already started")
        self.handle = handle


class TaskGone(DriverError):
    """The task was started once and nothing of it is left."""

    code = Code.NOT_FOUND
