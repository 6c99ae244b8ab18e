"""The process driver's line to taskd: starts it when it does not run, asks, and asks again when the line is lost.

Every request of taskd's protocol may be repeated, so a restart of taskd in the middle of a ``wait`` is not seen by the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Final, cast

from services.agent.taskd import __file__ as taskd_package
from services.agent.taskd.build import build_number
from services.agent.taskd.records import (
    BadRecord,
    Json,
    TaskInfo,
    TaskSpec,
    Usage,
    Version,
    info_from_json,
    spec_to_json,
    usage_from_json,
    version_from_json,
)
from services.agent.taskd.wire import BUSY, INVALID, NOT_FOUND, Unpacker, pack
from services.kit.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, SwarmError, Unavailable
from services.kit.runtime.clock import Clock
from services.kit.runtime.files import make_directory
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

MAIN_FILE: Final = Path(taskd_package).with_name("__main__.py")
IDLE_EXIT_S: Final = 60.0
CONNECT_LIMIT_S: Final = 10.0
INHERITED_ENV: Final = ("PATH", "HOME", "LANG", "TZ", "USER")
"""All that taskd, and through it a task, may see of our environment."""
_RETRY_S: Final = 0.05
_READ_BYTES: Final = 256 << 10
_READY_FD: Final = 3
_ERRORS: Final[dict[str, type[SwarmError]]] = {
    NOT_FOUND: NotFound,
    INVALID: InvalidArgument,
    BUSY: FailedPrecondition,
}


class _LineLost(Exception):
    """The connection ended before the answer came."""


class TaskdClient:
    """One connection to the node's taskd, made when first needed and again after each loss."""

    def __init__(
        self,
        *,
        worker_dir: Path,
        socket: Path,
        clock: Clock,
        log: Log,
        tasks: TaskOwner,
        idle_exit_s: float = IDLE_EXIT_S,
    ) -> None:
        self.tasks_dir = worker_dir / "tasks"
        self.version: Version | None = None
        """What the taskd is that we talked to last."""
        self._log_file = worker_dir / "taskd.log"
        self._socket = socket
        self._clock = clock
        self._log = log
        self._owner = tasks
        self._idle_exit_s = idle_exit_s
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._last_seq = 0
        self._reader_task: asyncio.Task[None] | None = None
        self._child_pidfds: set[int] = set()
        self._upgraded = False
        self._closed = False

    @property
    def is_connected(self) -> bool:
        """True while there is a connection, and with it perhaps a request that its caller has given up."""
        return self._writer is not None

    # -- requests -----------------------------------------------------------------------------------------------------

    async def connect(self) -> Version:
        """Connect, and start or upgrade taskd where needed; raises Unavailable when it does not come up."""
        await self._connected()
        assert self.version is not None, "a connection begins with the version"
        return self.version

    async def start(self, spec: TaskSpec) -> TaskInfo:
        """Start a task; one that exists already is returned as it is."""
        return info_from_json(await self._request("start", spec=spec_to_json(spec)))

    async def inspect(self, task_id: str) -> TaskInfo:
        """Return what is known of a task; raises NotFound."""
        return info_from_json(await self._request("inspect", id=task_id))

    async def list_tasks(self) -> list[TaskInfo]:
        """Return all tasks, in the order of their ids."""
        found: list[TaskInfo] = []
        more = True
        while more:
            page = await self._request("list", after=found[-1].id if found else "")
            found += map(info_from_json, cast("list[object]", page["tasks"]))
            more = bool(page["more"])
        return found

    async def wait(self, task_id: str) -> TaskInfo:
        """Wait for the end of a task; raises NotFound."""
        return info_from_json(await self._request("wait", id=task_id))

    async def signal(self, task_id: str, number: int) -> None:
        """Send a signal to a task's main process."""
        await self._request("signal", id=task_id, number=number)

    async def stop(self, task_id: str, grace_s: float) -> TaskInfo:
        """Send the task's stop signal, kill everything in it after the grace, return when it has ended."""
        return info_from_json(await self._request("stop", id=task_id, grace_s=grace_s))

    async def kill(self, task_id: str) -> TaskInfo:
        """Kill everything in a task, return when it has ended."""
        return info_from_json(await self._request("kill", id=task_id))

    async def remove(self, task_id: str) -> None:
        """End a task if need be and delete its directory; raises NotFound."""
        await self._request("remove", id=task_id)

    async def await_log(self, task_id: str, segment: int, records: int) -> bool:
        """Wait until the log has grown past a place, or the task has ended; True for the latter."""
        return bool((await self._request("await_log", id=task_id, segment=segment, records=records))["ended"])

    async def stats(self, task_id: str) -> Usage:
        """Measure a task."""
        return usage_from_json(await self._request("stats", id=task_id))

    async def stop_all(self, grace_s: float) -> None:
        """Stop and remove every task of the node and end taskd."""
        await self._request("stop_all", grace_s=grace_s)

    async def quit_when_empty(self) -> None:
        """Let taskd end as soon as no task lives; asked of a running taskd only."""
        if self._writer is not None:
            with contextlib.suppress(_LineLost):
                await self._ask("quit_when_empty")

    async def close(self) -> None:
        """Close the connection; taskd and its tasks stay."""
        self._closed = True
        self._drop()
        if self._reader_task is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
        for pidfd in list(self._child_pidfds):
            self._forget_child(pidfd)

    # -- the line -----------------------------------------------------------------------------------------------------

    async def _request(self, operation: str, **fields: object) -> Json:
        while True:
            await self._connected()
            try:
                return await self._ask(operation, **fields)
            except _LineLost:
                self._log.warning("taskd-lost", operation=operation)

    async def _ask(self, operation: str, **fields: object) -> Json:
        """Ask once on the present connection."""
        if self._writer is None:
            raise _LineLost
        self._last_seq += 1
        seq = self._last_seq
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._answers[seq] = answer
        try:
            self._writer.write(pack({"seq": seq, "op": operation, **fields}))
            return await answer
        finally:
            self._answers.pop(seq, None)

    async def _connected(self) -> None:
        async with self._connecting:
            if self._writer is not None:
                return
            if self._closed:
                raise Unavailable("the line to taskd is closed")
            deadline = self._clock.monotonic() + CONNECT_LIMIT_S
            while not await self._open():
                if self._clock.monotonic() > deadline:
                    raise Unavailable(f"taskd does not come up; see {self._log_file}")
                if not await self._spawn():
                    # It ended, or one that is about to end still holds the lock.
                    await asyncio.sleep(_RETRY_S)

    async def _open(self) -> bool:
        """Connect to a taskd of our build; False when nobody listens. An older one is told to become ours."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        self._writer = writer
        self._reader_task = self._owner.spawn("taskd-line", self._receive(reader, writer))
        is_ours = False
        try:
            is_ours = await self._greet()
        except _LineLost:
            self._log.warning("taskd-lost", operation="version")
            return False
        finally:
            if not is_ours:
                self._drop()
        # The successor of an older one, the same process, finds us waiting at the socket that it inherits.
        return is_ours or await self._open()

    async def _greet(self) -> bool:
        """Ask what it is; False after telling an older one to become ours."""
        self.version = version_from_json(await self._ask("version"))
        if self._upgraded or self.version.build == build_number():
            return True
        self._log.info("taskd-upgrade", pid=self.version.pid)
        self._upgraded = True
        await self._ask("reexec", executable=sys.executable, main=str(MAIN_FILE))
        return False

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        unpacker = Unpacker()
        try:
            while data := await reader.read(_READ_BYTES):
                for message in unpacker.feed(data):
                    self._on_message(message)
        except (ConnectionError, BadRecord) as error:
            self._log.warning("taskd-line-broken", error=str(error))
        finally:
            if self._writer is writer:
                self._drop()

    def _on_message(self, message: Json) -> None:
        answer = self._answers.get(int(str(message.get("seq") or 0)))
        if answer is None or answer.done():
            # The caller has gone.
            return
        error = message.get("error")
        if error is None:
            answer.set_result(cast("Json", message["result"]))
        else:
            refused = cast("dict[str, str]", error)
            answer.set_exception(_ERRORS.get(refused["kind"], Internal)(refused["message"]))

    def _drop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(_LineLost())

    # -- the process --------------------------------------------------------------------------------------------------

    async def _spawn(self) -> bool:
        """Start taskd in a session of its own; True when it listens, False when it ended first or another one holds the lock."""
        make_directory(self.tasks_dir)
        ready, ready_in_child = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = self._spawn_process(ready_in_child)
        finally:
            os.close(ready_in_child)
        self._log.info("taskd-started", pid=pid)
        self._reap_at_end(pid)
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                return await _first_byte(ready) != b""
        except TimeoutError:
            return False
        finally:
            os.close(ready)

    def _spawn_process(self, ready: int) -> int:
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # posix_spawn, because a fork would copy the agent and a Popen would want its child to end with it.
        return os.posix_spawn(
            sys.executable,
            (
                *(sys.executable, "-I", "-S", "-E", str(MAIN_FILE)),
                f"--tasks-dir={self.tasks_dir.absolute()}",
                f"--socket={self._socket.absolute()}",
                f"--idle-exit-s={self._idle_exit_s}",
                f"--ready-fd={_READY_FD}",
            ),
            {name: os.environ[name] for name in INHERITED_ENV if name in os.environ},
            file_actions=(
                (os.POSIX_SPAWN_DUP2, ready, _READY_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._log_file), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ),
            setsid=True,
            setsigmask=(),
        )

    def _reap_at_end(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        self._child_pidfds.add(pidfd)

        def reap() -> None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            self._forget_child(pidfd)

        asyncio.get_running_loop().add_reader(pidfd, reap)

    def _forget_child(self, pidfd: int) -> None:
        self._child_pidfds.discard(pidfd)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


async def _first_byte(descriptor: int) -> bytes:
    """Read one byte from a pipe; nothing when its other end is closed."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(descriptor, on_readable)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 1)
