"""Going into a task: a user talks with a process in it, copies files, measures it, reaches its ports. The dispatcher is the broker.

The user opens ``OPEN`` at the leader's dispatcher, whose first item names the conversation. The dispatcher puts an ``ExecRequest`` into the
session stream of the task's node. The agent opens ``SERVE`` to hear the user's input and says what comes back with ``PUBLISH``; the dispatcher passes
it on as items of ``OPEN``. The user's input goes by ``INPUT``. Both ``INPUT`` and ``PUBLISH`` are answered when they were taken in, and each
side has one unanswered call at a time: that is the back-pressure. A conversation ends with the item or publication that is ``done``, with the
user's stream (the dispatcher then sends the request again, ``closed``), or with the agent's session.

The dispatcher answers ``NotFound`` to ``SERVE``, ``PUBLISH`` and ``INPUT`` of a conversation that it does not know or that is not the caller's, and writes
who went into which task, and how, to the events.
"""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, NODES, Call, Empty, Feed, Owner
from services.kit.model.ids import ConversationId, TaskId
from services.kit.model.states import LogStream
from services.kit.model.value import Value

PIECE_BYTES_MAX = 64 << 10
"""More does not go into one piece of input or output."""


class RunCommand(Value, frozen=True, kw_only=True, tag="command"):
    """Run a command inside the task."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    """``NAME=value`` each, over the task's own."""
    dir: str = ""
    user: str = ""
    terminal: bool = False
    input: bool = False
    """It will be written to; otherwise its input is empty."""


class Attach(Value, frozen=True, kw_only=True, tag="attach"):
    """Join the task's own process; where a driver cannot, its output is followed and input is refused."""

    input: bool = False


class ReadFiles(Value, frozen=True, kw_only=True, tag="read-files"):
    """Send a file or directory of the task as a tar archive."""

    path: str


class WriteFiles(Value, frozen=True, kw_only=True, tag="write-files"):
    """Unpack a tar archive, which comes as input, in a directory of the task."""

    path: str


class ForwardPort(Value, frozen=True, kw_only=True, tag="forward-port"):
    """Carry the bytes of one TCP connection to a port of the task."""

    port: str
    """Its name, its target number, or empty for the first one."""


class Measure(Value, frozen=True, kw_only=True, tag="measure"):
    """Say what the task uses."""

    interval_s: float = 0.0
    """Again and again at this pace; 0 means once."""


Act = RunCommand | Attach | ReadFiles | WriteFiles | ForwardPort | Measure


class OpenExec(Value, frozen=True, kw_only=True):
    """A user wants to go into a task."""

    task_id: TaskId
    act: Act


class ExecRequest(Value, frozen=True, kw_only=True):
    """What the dispatcher asks of an agent."""

    conversation_id: ConversationId
    task_id: TaskId
    act: Act
    closed: bool = False
    """The user has gone: end it."""


class TerminalSize(Value, frozen=True, kw_only=True):
    """How large the user's terminal is."""

    rows: int
    columns: int


class ExecInput(Value, frozen=True, kw_only=True):
    """Input of one conversation, from the user through the dispatcher to the agent."""

    conversation_id: ConversationId
    sequence: int
    """1, 2, 3 …; what was taken in is dropped when it comes again."""
    data: bytes = b""
    ended: bool = False
    """There will be no more data."""
    size: TerminalSize | None = None


class ServeExec(Value, frozen=True, kw_only=True):
    """An agent took a conversation on, and wants its input."""

    conversation_id: ConversationId


class Piece(Value, frozen=True, kw_only=True):
    """Output, as it came."""

    stream: LogStream = LogStream.STDOUT
    data: bytes


class Measured(Value, frozen=True, kw_only=True):
    """What a task uses."""

    at: float
    """Wall-clock seconds since the epoch, by the node's clock."""
    cpu_s: float = 0.0
    """Processor seconds since its start."""
    memory_bytes: int = 0
    pids: int = 0


class ExecOutput(Value, frozen=True, kw_only=True):
    """What comes back of one conversation."""

    conversation_id: ConversationId
    pieces: tuple[Piece, ...] = ()
    measured: Measured | None = None
    done: bool = False
    """Nothing more comes."""
    exit_code: int | None = None
    """With ``done``: how the command ended, as a shell gives it; None when it was no command or nobody knows."""
    error: str = ""
    """With ``done``: why it could not be, or broke off."""


OPEN = Feed(name="exec.open", request=OpenExec, item=ExecOutput, owner=Owner.DISPATCHER, roles=MANAGERS, leader=True)
INPUT = Call(
    name="exec.input",
    request=ExecInput,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
    idempotent=True,
)
SERVE = Feed(name="exec.serve", request=ServeExec, item=ExecInput, owner=Owner.DISPATCHER, roles=NODES, leader=True)
PUBLISH = Call(name="exec.publish", request=ExecOutput, reply=Empty, owner=Owner.DISPATCHER, roles=NODES, leader=True)

METHODS = (OPEN, INPUT, SERVE, PUBLISH)
