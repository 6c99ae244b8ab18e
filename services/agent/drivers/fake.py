"""The fake driver: tasks that exist only in the agent's memory, scripted by their ``driver_options``. For load tests and rehearsals.

It is a product feature: a fleet of agents with fake tasks exercises the whole control plane at a cost of about 2 KiB per task and one timer. What a task
does is said by its options (see ``OPTIONS``); for example, tasks that take 0.2 s to start, run for a minute and then fail:

    swarmctl service create --name load --replicas 1000 --driver fake \
        --driver-opt start_delay=0.2 --driver-opt run_for=60 --driver-opt exit_code=3

A fake task outlives the agent on paper: a small record in ``worker/fake`` says when it was started, so that a restarted agent finds
it running, or ended at the time it would have ended. Limits, mounts, networks and the like mean nothing to it and are accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import msgspec

from services.agent.drivers.api import (
    API_VERSION,
    AlreadyPrepared,
    AlreadyStarted,
    Capabilities,
    Command,
    Conversation,
    DriverContext,
    Exit,
    Failed,
    Fingerprint,
    Handle,
    Line,
    Observed,
    Option,
    OptionKind,
    Recovered,
    Rejected,
    TaskBundle,
    TaskGone,
    Temporary,
)
from services.agent.drivers.options import OptionValue, read_options
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import TaskId
from services.kit.model.objects import PortStatus
from services.kit.model.states import LogStream, MountType
from services.kit.model.value import Value
from services.kit.runtime.clock import Clock
from services.kit.runtime.files import make_directory

SIGTERM = 15
SIGKILL = 9

OPTIONS = (
    Option(name="prepare_delay", kind=OptionKind.SECONDS, default="0", meaning="seconds that prepare takes"),
    Option(name="fail_prepare", kind=OptionKind.TEXT, default="", meaning="reject the task with this message"),
    Option(name="retry_prepare", kind=OptionKind.INTEGER, default="0", meaning="fail this often for now, then succeed"),
    Option(name="start_delay", kind=OptionKind.SECONDS, default="0", meaning="seconds that start takes"),
    Option(name="fail_start", kind=OptionKind.TEXT, default="", meaning="fail to start with this message"),
    Option(
        name="ready_after",
        kind=OptionKind.SECONDS,
        default="0",
        meaning="seconds from start to the first healthy answer",
    ),
    Option(
        name="unhealthy_after",
        kind=OptionKind.SECONDS,
        default="0",
        meaning="seconds from start until its health check fails; 0 means never",
    ),
    Option(
        name="run_for", kind=OptionKind.SECONDS, default="0", meaning="seconds until it ends by itself; 0 means never"
    ),
    Option(name="exit_code", kind=OptionKind.INTEGER, default="0", meaning="exit code when it ends by itself"),
    Option(
        name="exit_signal", kind=OptionKind.INTEGER, default="0", meaning="signal that ends it instead of an exit code"
    ),
    Option(name="oom", kind=OptionKind.FLAG, default="false", meaning="it ends because memory ran out"),
    Option(name="stop_delay", kind=OptionKind.SECONDS, default="0", meaning="seconds from the stop signal to the end"),
    Option(
        name="hang_on_stop",
        kind=OptionKind.FLAG,
        default="false",
        meaning="ignore the stop signal: only the kill ends it",
    ),
    Option(name="log_lines", kind=OptionKind.INTEGER, default="0", meaning="lines that it writes"),
    Option(name="log_interval", kind=OptionKind.SECONDS, default="0", meaning="seconds between two lines"),
    Option(
        name="log_line",
        kind=OptionKind.TEXT,
        default="line {n} of {name}",
        meaning="what it writes; {n} and {name} are filled in",
    ),
)

LINES_PER_BATCH = 256


class _Script(Value, frozen=True, kw_only=True):
    """The options of one task, read."""

    prepare_delay: float
    fail_prepare: str
    retry_prepare: int
    start_delay: float
    fail_start: str
    ready_after: float
    unhealthy_after: float
    run_for: float
    exit_code: int
    exit_signal: int
    oom: bool
    stop_delay: float
    hang_on_stop: bool
    log_lines: int
    log_interval: float
    log_line: str


class _Phase(StrEnum):
    PREPARED = "prepared"
    STARTED = "started"
    ENDED = "ended"


class _Record(Value, frozen=True, kw_only=True):
    """What is kept of a task, in memory and in its file."""

    phase: _Phase
    started_at: float = 0.0
    """Wall clock."""
    ends_at: float = 0.0
    """Wall clock; 0 means never. Behind a task's end: when it ended."""
    code: int | None = None
    signal: int | None = None
    oom: bool = False

    def exit(self) -> Exit:
        """Return how it ends."""
        return Exit(code=self.code, signal=self.signal, oom=self.oom, finished_at=self.ends_at)


class FakeDriver:
    """Runs fake tasks."""

    name: ClassVar[str] = "fake"
    api: ClassVar[int] = API_VERSION

    def __init__(self) -> None:
        self._ledger: _Ledger | None = None

    async def load(self, context: DriverContext) -> None:
        """Read the records of earlier runs."""
        directory = context.state_dir / "worker" / self.name
        make_directory(directory)
        self._ledger = _Ledger(directory, context.clock)

    async def unload(self) -> None:
        """Leave the records where they are."""
        if self._ledger is not None:
            self._ledger.close()

    def capabilities(self) -> Capabilities:
        """Everything is accepted, nothing is done."""
        return Capabilities(networks=True, mounts=frozenset(MountType))

    def options(self) -> tuple[Option, ...]:
        """Return the script's vocabulary."""
        return OPTIONS

    async def fingerprint(self) -> AsyncGenerator[Fingerprint]:
        """Say that all is well, for ever."""
        yield Fingerprint(healthy=True)
        await asyncio.Event().wait()

    async def recover(self) -> AsyncGenerator[Recovered]:
        """Yield every task with a record."""
        for task_id, record in sorted(self._open().records.items()):
            running = record.phase is _Phase.STARTED
            yield Recovered(task_id=task_id, handle=_handle(task_id), running=running)

    async def controller(self, bundle: TaskBundle, handle: Handle | None = None) -> FakeController:
        """Return the controller of a task; its record is found by the task's id."""
        return FakeController(self._open(), bundle)

    async def discard(self, orphan: Recovered) -> None:
        """Drop the record."""
        self._open().remove(orphan.task_id)

    def _open(self) -> _Ledger:
        assert self._ledger is not None, "the driver is not loaded"
        return self._ledger


class FakeController:
    """One fake task."""

    def __init__(self, ledger: _Ledger, bundle: TaskBundle) -> None:
        self._ledger = ledger
        self._bundle = bundle
        self._attempts = 0

    async def update(self, bundle: TaskBundle) -> None:
        """Take over the bundle."""
        self._bundle = bundle

    async def prepare(self) -> None:
        """Read the script and act its first part."""
        script = self._script()
        if self._bundle.id in self._ledger.records:
            raise AlreadyPrepared("already prepared")
        await asyncio.sleep(script.prepare_delay)
        if script.fail_prepare:
            raise Rejected(script.fail_prepare)
        self._attempts += 1
        if self._attempts <= script.retry_prepare:
            raise Temporary(f"not yet, attempt {self._attempts}", retry_after_s=0.0)
        self._ledger.put(self._bundle.id, _Record(phase=_Phase.PREPARED))

    async def start(self) -> Handle:
        """Start the clock of the script."""
        script = self._script()
        if self._record().phase is not _Phase.PREPARED:
            raise AlreadyStarted(_handle(self._bundle.id))
        await asyncio.sleep(script.start_delay)
        if script.fail_start:
            raise Failed(script.fail_start)
        started_at = self._ledger.clock.wall()
        record = _Record(
            phase=_Phase.STARTED,
            started_at=started_at,
            ends_at=started_at + script.run_for if script.run_for else 0.0,
            code=None if script.exit_signal or script.oom else script.exit_code,
            signal=SIGKILL if script.oom else script.exit_signal or None,
            oom=script.oom,
        )
        self._ledger.put(self._bundle.id, record)
        return _handle(self._bundle.id)

    async def ready(self) -> None:
        """Wait until the script says that it serves."""
        record = self._record()
        left = record.started_at + self._script().ready_after - self._ledger.clock.wall()
        if left > 0:
            await self._ledger.wait_ended(self._bundle.id, timeout_s=left)
        if not self._script().ready_after:
            # It serves from the start; how it ended meanwhile is the wait's business.
            return
        if self._record().phase is _Phase.ENDED:
            end = self._record().exit()
            raise Failed(f"ended before it was healthy: {end.reason}", end)

    async def inspect(self) -> Observed:
        """Make up what would be seen."""
        if self._record().phase is _Phase.PREPARED:
            raise TaskGone(f"task {self._bundle.id} was not started")
        ports = tuple(
            PortStatus(
                name=need.name,
                target_port=need.target_port,
                port=need.fixed_port or need.target_port,
                protocol=need.protocol.value,
            )
            for need in self._bundle.ports
        )
        return Observed(container_id=f"fake-{self._bundle.id}", ports=ports)

    async def wait(self) -> Exit:
        """Wait for the end."""
        if self._record().phase is _Phase.PREPARED:
            raise TaskGone(f"task {self._bundle.id} was not started")
        await self._ledger.wait_ended(self._bundle.id)
        return self._record().exit()

    async def shutdown(self, grace_s: float) -> None:
        """End it as the script says, at the latest after the grace period."""
        if not self._running():
            return
        script = self._script()
        obeys = not script.hang_on_stop and script.stop_delay <= grace_s
        await self._ledger.wait_ended(self._bundle.id, timeout_s=script.stop_delay if obeys else grace_s)
        await self.signal(SIGTERM if obeys else SIGKILL)

    async def terminate(self) -> None:
        """End it at once."""
        await self.signal(SIGKILL)

    async def signal(self, number: int) -> None:
        """End it by a signal, unless the script ignores that one."""
        if self._running() and (number == SIGKILL or not self._script().hang_on_stop):
            self._ledger.end(self._bundle.id, signal=number)

    async def remove(self) -> None:
        """End it and drop its record."""
        self._ledger.remove(self._bundle.id)

    async def close(self) -> None:
        """Nothing is held."""

    async def open_exec(self, command: Command) -> Conversation:
        """Make up a command: it says its own words, then what it is told; its code says whether the task is healthy by the script."""
        record = self._record()
        if record.phase is not _Phase.STARTED:
            raise TaskGone(f"task {self._bundle.id} does not run")
        script = self._script()
        age = self._ledger.clock.wall() - record.started_at
        healthy = age >= script.ready_after and (not script.unhealthy_after or age < script.unhealthy_after)
        return FakeConversation(command, code=0 if healthy else 1)

    async def logs(self, options: LogOptions) -> AsyncGenerator[tuple[Line, ...]]:
        """Yield the lines that it would have written by now."""
        script = self._script()
        record = self._record()
        if record.phase is _Phase.PREPARED or (options.streams and LogStream.STDOUT not in options.streams):
            return
        sent = self._lines_until_now(script) - options.tail if options.tail >= 0 else 0
        sent = max(sent, 0)
        while True:
            written = self._lines_until_now(script)
            while sent < written:
                batch = range(sent, min(written, sent + LINES_PER_BATCH))
                sent = batch.stop
                lines = tuple(line for line in map(self._line, batch) if line.timestamp >= options.since)
                if lines:
                    yield lines
            if not options.follow or not self._running():
                return
            due = record.started_at + sent * script.log_interval - self._ledger.clock.wall()
            left = max(due, 0.001) if sent < script.log_lines else None
            await self._ledger.wait_ended(self._bundle.id, timeout_s=left)

    def _lines_until_now(self, script: _Script) -> int:
        record = self._record()
        until = self._ledger.clock.wall()
        if record.phase is _Phase.ENDED:
            until = min(until, record.ends_at)
        if not script.log_interval:
            return script.log_lines
        return min(script.log_lines, int((until - record.started_at) / script.log_interval + 1e-9) + 1)

    def _line(self, number: int) -> Line:
        script = self._script()
        text = script.log_line.replace("{n}", str(number)).replace("{name}", self._bundle.name)
        timestamp = self._record().started_at + number * script.log_interval
        return Line(timestamp, LogStream.STDOUT, text.encode())

    def _running(self) -> bool:
        record = self._ledger.records.get(self._bundle.id)
        return record is not None and self._ledger.current(self._bundle.id).phase is _Phase.STARTED

    def _record(self) -> _Record:
        return self._ledger.current(self._bundle.id)

    def _script(self) -> _Script:
        return _script(self._bundle.spec.task.driver_options)


class FakeConversation:
    """A command that exists on paper only."""

    def __init__(self, command: Command, *, code: int) -> None:
        self._code = code
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(4)
        self._pieces.put_nowait(" ".join(command.argv).encode() + b"\n")
        if not command.input:
            self._pieces.put_nowait(b"")

    async def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield its words, then its input."""
        while piece := await self._pieces.get():
            yield LogStream.STDOUT, piece

    async def write(self, data: bytes) -> None:
        """Have it said back."""
        await self._pieces.put(data)

    async def close_input(self) -> None:
        """End it."""
        await self._pieces.put(b"")

    async def resize(self, rows: int, columns: int) -> None:
        """Say the new size, so that a rehearsal can see it."""
        await self._pieces.put(f"{rows}x{columns}\n".encode())

    async def wait(self) -> int | None:
        """Return its code."""
        return self._code

    async def close(self) -> None:
        """Nothing is held."""


class _Ledger:
    """The records of all fake tasks of this node, and the timers of those that end by themselves."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.clock = clock
        self.records: dict[TaskId, _Record] = {}
        self._directory = directory
        self._ends: dict[TaskId, asyncio.Event] = {}
        decoder = msgspec.json.Decoder(_Record)
        for path in sorted(directory.glob("[!.]*")):
            self.records[TaskId(path.name)] = decoder.decode(path.read_bytes())

    def current(self, task_id: TaskId) -> _Record:
        """Return a task's record as of now; raises TaskGone."""
        record = self.records.get(task_id)
        if record is None:
            raise TaskGone(f"there is nothing left of task {task_id}")
        if record.phase is _Phase.STARTED and 0 < record.ends_at <= self.clock.wall():
            record = msgspec.structs.replace(record, phase=_Phase.ENDED)
            self.put(task_id, record)
        return record

    def put(self, task_id: TaskId, record: _Record) -> None:
        """Keep a record; whoever waits for its end is woken."""
        self.records[task_id] = record
        temporary = self._directory / f".{task_id}"
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.rename(self._directory / task_id)
        self._wake(task_id, ended=record.phase is _Phase.ENDED)

    def end(self, task_id: TaskId, *, signal: int) -> None:
        """End a running task now."""
        record = msgspec.structs.replace(
            self.records[task_id], phase=_Phase.ENDED, ends_at=self.clock.wall(), code=None, signal=signal, oom=False
        )
        self.put(task_id, record)

    def remove(self, task_id: TaskId) -> None:
        """Forget a task."""
        if self.records.pop(task_id, None) is not None:
            (self._directory / task_id).unlink(missing_ok=True)
        self._wake(task_id, ended=True)

    async def wait_ended(self, task_id: TaskId, *, timeout_s: float | None = None) -> None:
        """Wait until a task has ended or is gone, or the time is over."""
        deadline = None if timeout_s is None else self.clock.monotonic() + timeout_s
        while task_id in self.records and (record := self.current(task_id)).phase is not _Phase.ENDED:
            waits = [record.ends_at - self.clock.wall()] if record.ends_at else []
            if deadline is not None:
                waits.append(deadline - self.clock.monotonic())
            if waits and min(waits) <= 0:
                return
            event = self._ends.setdefault(task_id, asyncio.Event())
            try:
                async with asyncio.timeout(min(waits, default=None)):
                    await event.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Wake everybody; the records stay."""
        for event in self._ends.values():
            event.set()

    def _wake(self, task_id: TaskId, *, ended: bool) -> None:
        if ended and (event := self._ends.pop(task_id, None)) is not None:
            event.set()


def _handle(task_id: TaskId) -> Handle:
    return Handle(task_id.encode())


def _script(given: dict[str, str]) -> _Script:
    values: dict[str, OptionValue] = read_options(FakeDriver.name, OPTIONS, given)
    return msgspec.convert(values, _Script)
