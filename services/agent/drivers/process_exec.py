"""A command inside a process task: a child of the agent that joins the task's control groups. Used by the process driver.

It does not outlive the agent (the kernel kills it with us, where setpriv is installed), and it ends with its task, whose groups it is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import msgspec

from services.agent.drivers.api import Command, Conversation, Failed, TaskGone
from services.agent.taskd.launch import LAUNCH_FAILED, find_setpriv
from services.agent.taskd.records import TaskSpec
from services.kit.model.states import LogStream
from services.kit.runtime.tasks import TaskOwner

PIECE_BYTES_MAX: Final = 64 << 10
PIECES_WAITING_MAX: Final = 4
_INHERITED_SIGNALS: Final = tuple(
    number
    for number in sorted(signal.valid_signals())
    if number not in {signal.SIGKILL, signal.SIGSTOP} and number < 32
)


class _Birth(msgspec.Struct, frozen=True):
    """What taskd keeps of a task's start, as far as it matters here."""

    groups: list[tuple[str, int, list[str]]] = []


async def run_inside(spec: TaskSpec, task_dir: Path, command: Command) -> Conversation:
    """Start a command beside a task; raises Failed and TaskGone."""
    try:
        birth = msgspec.json.decode((task_dir / "pid.json").read_bytes(), type=_Birth)
    except FileNotFoundError:
        raise TaskGone("the task was not started") from None
    if command.user:
        raise Failed("a command in a process task runs as the task's user")
    groups = tuple(f"{base}/{spec.id}" for base, _, _ in birth.groups)
    try:
        if command.terminal:
            return await _with_terminal(spec, groups, command)
        return await _with_pipes(spec, groups, command)
    except OSError as error:
        raise Failed(f"cannot run {command.argv[0]}: {error}") from error


async def _with_terminal(spec: TaskSpec, groups: tuple[str, ...], command: Command) -> _ProcessConversation:
    master, slave = os.openpty()
    try:
        name = os.ttyname(slave)
        if spec.user is not None:
            os.fchown(slave, spec.user.uid, -1)
        # A session leader that opens a terminal has it as its own: then the keyboard's signals work.
        pid = _spawn(spec, groups, command, opened=tuple((number, name) for number in range(3)))
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    reader = await _reader(master)
    writer = await _writer(os.dup(master)) if command.input else None
    return _ProcessConversation(pid, ((LogStream.STDOUT, reader),), writer, terminal=master)


async def _with_pipes(spec: TaskSpec, groups: tuple[str, ...], command: Command) -> _ProcessConversation:
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        for read, write in (pipes[0], *((write, read) for read, write in pipes[1:])):
            theirs.callback(os.close, read)
            ours.callback(os.close, write)
        pid = _spawn(spec, groups, command, pipes=(pipes[0][0], pipes[1][1], pipes[2][1]))
        ours.pop_all()
    writer = await _writer(pipes[0][1])
    if not command.input:
        writer.close()
    readers = (
        (LogStream.STDOUT, await _reader(pipes[1][0])),
        (LogStream.STDERR, await _reader(pipes[2][0])),
    )
    return _ProcessConversation(pid, readers, writer if command.input else None, terminal=None)


def _spawn(
    spec: TaskSpec,
    groups: tuple[str, ...],
    command: Command,
    *,
    pipes: tuple[int, ...] = (),
    opened: tuple[tuple[int, str], ...] = (),
) -> int:
    """Start the shell that joins the groups and becomes the command; the user's words are parameters, never code."""
    steps = [('echo 0 >"$1/cgroup.procs"', group) for group in groups if Path(group).is_dir()]
    steps.append(('cd "$1"', command.dir or spec.directory))
    script = "".join(f"{step} || exit {LAUNCH_FAILED}; shift; " for step, _ in steps) + 'unset OLDPWD; exec "$@"'
    environment = dict(entry.partition("=")[::2] for entry in (*spec.env, *command.env))
    if command.terminal:
        environment.setdefault("TERM", "xterm")
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        *((os.POSIX_SPAWN_DUP2, pipe, number) for number, pipe in enumerate(pipes)),
        *((os.POSIX_SPAWN_OPEN, number, name, os.O_RDWR, 0) for number, name in opened),
    ]
    return os.posix_spawn(
        "/bin/sh",
        ("sh", "-c", script, "exec", *(argument for _, argument in steps), *_privileges(spec), *command.argv),
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_INHERITED_SIGNALS,
    )


def _privileges(spec: TaskSpec) -> tuple[str, ...]:
    program = find_setpriv()
    if program is None:
        return ()
    options = ["--pdeathsig", "KILL"]
    if spec.user is not None:
        options += ["--reuid", str(spec.user.uid), "--regid", str(spec.user.gid)]
        groups = ",".join(map(str, spec.user.groups))
        options += ["--groups", groups] if groups else ["--clear-groups"]
    if spec.no_new_privileges:
        options.append("--no-new-privs")
    return (program, *options, "--")


class _ProcessConversation:
    """A child of ours and its pipes or terminal."""

    def __init__(
        self,
        pid: int,
        readers: tuple[tuple[LogStream, asyncio.StreamReader], ...],
        writer: asyncio.StreamWriter | None,
        *,
        terminal: int | None,
    ) -> None:
        self._pid = pid
        self._readers = readers
        self._writer = writer
        self._terminal = terminal
        self._pidfd = os.pidfd_open(pid)
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    async def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield what it writes."""
        pieces: asyncio.Queue[tuple[LogStream, bytes]] = asyncio.Queue(PIECES_WAITING_MAX)
        open_streams = len(self._readers)

        async def read(stream: LogStream, reader: asyncio.StreamReader) -> None:
            # A terminal says EIO when its last user is gone.
            with contextlib.suppress(OSError):
                while data := await reader.read(PIECE_BYTES_MAX):
                    await pieces.put((stream, data))
            await pieces.put((stream, b""))

        async with TaskOwner("exec output") as owner:
            for stream, reader in self._readers:
                owner.spawn(stream.value, read(stream, reader))
            while open_streams:
                piece = await pieces.get()
                if piece[1]:
                    yield piece
                else:
                    open_streams -= 1

    async def write(self, data: bytes) -> None:
        """Give it input."""
        if self._writer is not None and not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write(data)
                await self._writer.drain()

    async def close_input(self) -> None:
        """Close its pipe; a terminal says ^D, which is how it tells the end."""
        if self._terminal is not None:
            await self.write(b"\x04")
        elif self._writer is not None:
            self._writer.close()

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size."""
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def wait(self) -> int | None:
        """Return its exit code."""
        return await asyncio.shield(self._code)

    async def close(self) -> None:
        """Kill it with what it started in its session's first group, and close its pipes."""
        if not self._code.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            await asyncio.shield(self._code)
        if self._writer is not None:
            self._writer.close()
        for _, reader in self._readers:
            transport: asyncio.ReadTransport = reader._transport  # type: ignore[attr-defined]
            transport.close()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._code.set_result(code if code >= 0 else 128 - code)


async def _reader(descriptor: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(PIECE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0))
    return reader


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(descriptor, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)
