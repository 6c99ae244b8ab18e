"""The process driver: tasks as plain processes of the node, held by taskd.

A task sees the node's own file system and network. Limits are enforced as far as the node's kernel and our rights go; what is not is in
the fingerprint. Below ``<state-dir>/worker``:

    tasks/<task id>       taskd's: spec, process, log, exit record
    process/<task id>     ours: what ``prepare`` decided (``prepared.json``), and the directory in which the task starts (``work``)
    taskd.log             what taskd itself has to say

Nothing is kept in memory that cannot be read again there or asked of taskd, so an agent that restarts goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from services.agent.core.ports import PortNeed, has_marks, marked_ports
from services.agent.drivers.api import (
    API_VERSION,
    AlreadyPrepared,
    AlreadyStarted,
    Capabilities,
    Command,
    Controller,
    Conversation,
    DriverContext,
    Exit,
    Failed,
    Fingerprint,
    Handle,
    Line,
    Observed,
    Option,
    Recovered,
    Rejected,
    Stats,
    TaskBundle,
    TaskGone,
    Temporary,
)
from services.agent.drivers.process_exec import run_inside
from services.agent.drivers.process_spec import OPTIONS, check, find_user, make_spec
from services.agent.drivers.task_files import CONFIGS_VARIABLE, SECRETS_VARIABLE, FileStore, below_their_directories
from services.agent.drivers.task_logs import LogReader
from services.agent.drivers.task_ports import ChosenPort, PortRange, port_numbers, port_statuses
from services.agent.drivers.taskd_client import TaskdClient
from services.agent.taskd.launch import LAUNCH_FAILED
from services.agent.taskd.processes import become_subreaper
from services.agent.taskd.records import TaskInfo, TaskSpec
from services.kit.errors import Internal, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import TaskId
from services.kit.model.value import Value
from services.kit.runtime.files import make_directory, write_atomic

FINGERPRINT_RETRY_S: Final = 5.0
OCI: Final = "oci"
"""The driver whose tasks taskd holds as well."""
_PIPES: Final = ("stdout.fifo", "stderr.fifo")


class Prepared(Value, frozen=True, kw_only=True):
    """What ``prepare`` decided, as it is kept on disk."""

    ports: tuple[ChosenPort, ...] = ()
    files: dict[str, str] = {}


class ProcessDriver:
    """Runs tasks as processes of the node."""

    name: ClassVar[str] = "process"
    api: ClassVar[int] = API_VERSION

    def __init__(self) -> None:
        self._context: DriverContext | None = None
        self._client: TaskdClient | None = None
        self._ports: PortRange | None = None
        self._files: FileStore | None = None

    async def load(self, context: DriverContext) -> None:
        """Get ready, and take note of the ports that tasks have from before."""
        # When taskd is killed its tasks become our children, and their exit statuses wait with us for the next taskd.
        become_subreaper()
        worker_dir = context.state_dir / "worker"
        make_directory(worker_dir / self.name)
        self._context = context
        self._files = FileStore.of(context.state_dir)
        self._ports = context.ports or PortRange(context.node_id, context.addr)
        self._client = TaskdClient(
            worker_dir=worker_dir,
            socket=context.run_dir / "taskd.sock",
            clock=context.clock,
            log=context.log,
            tasks=context.tasks,
        )
        for directory in sorted((worker_dir / self.name).iterdir()):
            prepared = read_prepared(directory)
            if prepared is not None:
                self._ports.reserve(prepared.ports)

    async def unload(self) -> None:
        """Leave. taskd keeps the tasks, and ends with the last of them."""
        assert self._client is not None, "unload comes after load"
        await self._client.quit_when_empty()
        await self._client.close()

    def capabilities(self) -> Capabilities:
        """Return what it can do."""
        return Capabilities(limits=frozenset({"nano_cpus", "memory_bytes", "pids_limit"}))

    def options(self) -> tuple[Option, ...]:
        """Return the driver options it understands."""
        return OPTIONS

    async def fingerprint(self) -> AsyncGenerator[Fingerprint]:
        """Yield whether taskd answers and which limits it can enforce, until it does: then nothing changes while the node is up."""
        seen = await self._fingerprint()
        yield seen
        while not seen.healthy:
            await asyncio.sleep(FINGERPRINT_RETRY_S)
            seen = await self._fingerprint()
            yield seen
        await asyncio.get_running_loop().create_future()

    async def recover(self) -> AsyncGenerator[Recovered]:
        """Yield what taskd holds for this driver; what no driver claims is ours."""
        _, client = self._loaded()
        if not has_tasks(client.tasks_dir):
            return
        with as_temporary():
            tasks = await client.list_tasks()
        for info in tasks:
            if self._is_ours(info.id):
                yield Recovered(task_id=TaskId(info.id), handle=handle_of(info), running=info.exit is None)

    async def controller(self, bundle: TaskBundle, handle: Handle | None = None) -> Controller:
        """Return the controller of a task; its id finds everything, the handle is not needed."""
        return self._controller(bundle.id, bundle)

    async def discard(self, orphan: Recovered) -> None:
        """End and remove a recovered task that the agent does not know."""
        await self._controller(orphan.task_id, None).remove()

    def _controller(self, task_id: TaskId, bundle: TaskBundle | None) -> ProcessController:
        context, client = self._loaded()
        assert self._ports is not None, "set by load"
        assert self._files is not None, "set by load"
        return ProcessController(
            task_id,
            bundle,
            client=client,
            directory=context.state_dir / "worker" / self.name / task_id,
            ports=self._ports,
            files=self._files,
        )

    def _is_ours(self, task_id: str) -> bool:
        """Tell whether a task of taskd is this driver's; what no driver claims is."""
        context, _ = self._loaded()
        return not (context.state_dir / "worker" / OCI / task_id).exists()

    def _loaded(self) -> tuple[DriverContext, TaskdClient]:
        assert self._context is not None, "the driver is loaded first"
        assert self._client is not None, "the driver is loaded first"
        return self._context, self._client

    async def _fingerprint(self) -> Fingerprint:
        _, client = self._loaded()
        assert self._files is not None, "set by load"
        try:
            version = await client.connect()
        except Unavailable as error:
            return Fingerprint(healthy=False, reason=error.message)
        return Fingerprint(
            healthy=True,
            version=str(version.protocol),
            attributes={
                "process.kill_by": version.kill_by,
                "process.secrets_in": "memory" if self._files.in_memory else "disk",
                "process.users": "any" if os.geteuid() == 0 else "own",
            },
            unenforced=version.unenforced,
        )


class ProcessController:
    """One task as a process."""

    def __init__(
        self,
        task_id: TaskId,
        bundle: TaskBundle | None,
        *,
        client: TaskdClient,
        directory: Path,
        ports: PortRange,
        files: FileStore,
    ) -> None:
        self._id = task_id
        self._bundle = bundle
        self._client = client
        self._directory = directory
        self._ports = ports
        self._files = files

    @property
    def _task_dir(self) -> Path:
        """Return taskd's directory of the task; it is there from before the start until the removal."""
        return self._client.tasks_dir / self._id

    # -- the verbs ----------------------------------------------------------------------------------------------------

    async def update(self, bundle: TaskBundle) -> None:
        """Take over a changed bundle; nothing of a running process changes."""
        self._bundle = bundle

    async def prepare(self) -> None:
        """Check the spec, choose ports, write secrets and configs, make the directory."""
        bundle = self._known_bundle()
        self._admit(bundle)
        if read_prepared(self._directory) is not None:
            raise AlreadyPrepared("prepared before")
        ports = self._choose_ports(bundle)
        try:
            self._make_place(bundle, ports)
            files = self._write_files(bundle, ports)
        except BaseException:
            self._ports.release(ports)
            raise
        prepared = Prepared(ports=ports, files=files)
        write_atomic(self._directory / "prepared.json", msgspec.json.encode(prepared))

    async def start(self) -> Handle:
        """Have taskd start the process."""
        if self._may_exist():
            with contextlib.suppress(NotFound):
                raise AlreadyStarted(handle_of(await self._client.inspect(self._id)))
        prepared = read_prepared(self._directory)
        if prepared is None:
            raise Failed("start came before prepare")
        self._restore_files(prepared)
        spec = self._spec(prepared)
        with as_driver_errors():
            return handle_of(await self._client.start(spec._replace(scratch=self._scratch())))

    async def inspect(self) -> Observed:
        """Return process id and ports."""
        info = await self._info()
        prepared = read_prepared(self._directory) or Prepared()
        return Observed(pid=info.pid, ports=port_statuses(prepared.ports))

    async def wait(self) -> Exit:
        """Wait for the end."""
        self._must_exist()
        with as_driver_errors(), self._pipes_held():
            info = await self._client.wait(self._id)
        bury(info.pid)
        # What has ended needs no secrets any more; its log stays until it is removed.
        self._files.remove(self._id)
        return exit_of(info)

    async def shutdown(self, grace_s: float) -> None:
        """Send the stop signal, kill everything in it after the grace."""
        if self._may_exist():
            with contextlib.suppress(NotFound), as_temporary():
                await self._client.stop(self._id, grace_s)

    async def terminate(self) -> None:
        """Kill everything in it."""
        if self._may_exist():
            with contextlib.suppress(NotFound), as_temporary():
                await self._client.kill(self._id)

    async def remove(self) -> None:
        """End it if need be and delete its directories, log and files; its ports are free again."""
        if self._may_exist():
            with contextlib.suppress(NotFound), as_temporary():
                await self._client.remove(self._id)
        prepared = read_prepared(self._directory)
        if prepared is not None:
            self._ports.release(prepared.ports)
        self._files.remove(self._id)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def close(self) -> None:
        """Drop nothing: a controller holds nothing of its own."""

    # -- what it can do besides ---------------------------------------------------------------------------------------

    async def logs(self, options: LogOptions) -> AsyncGenerator[tuple[Line, ...]]:
        """Yield lines in the order written; with ``follow`` until the task has ended."""
        reader = LogReader(self._task_dir, since=options.since, streams=options.streams)
        if options.tail >= 0:
            last: deque[Line] = deque(maxlen=options.tail)
            while batch := reader.read():
                last.extend(batch)
                await asyncio.sleep(0)
            if not options.follow:
                last.extend(reader.finish())
            if last:
                yield tuple(last)
        ended = not options.follow
        while True:
            # The place is taken before the look: what is written in between makes the wait below return at once.
            place = reader.place
            batch = reader.read()
            if batch:
                yield batch
                await asyncio.sleep(0)
            elif ended:
                break
            else:
                ended = await self._log_ended(*place)
        if rest := reader.finish():
            yield rest

    async def signal(self, number: int) -> None:
        """Send a signal to the main process."""
        self._must_exist()
        with as_driver_errors():
            await self._client.signal(self._id, number)

    async def stats(self) -> Stats:
        """Measure it."""
        self._must_exist()
        with as_driver_errors():
            usage = await self._client.stats(self._id)
        return Stats(cpu_s=usage.cpu_s, memory_bytes=usage.memory_bytes, pids=usage.pids)

    async def open_exec(self, command: Command) -> Conversation:
        """Run a command in the task's control groups, with its environment, directory and user."""
        prepared = read_prepared(self._directory)
        if prepared is None:
            raise TaskGone("nothing of the task is left")
        if (await self._info()).exit is not None:
            raise TaskGone("the task has ended")
        return await run_inside(self._spec(prepared), self._task_dir, command)

    # -- what the oci driver does differently ---------------------------------------------------------------------------

    def _admit(self, bundle: TaskBundle) -> None:
        """Refuse what a process cannot be given."""
        check(bundle)

    def _make_place(self, bundle: TaskBundle, ports: tuple[ChosenPort, ...]) -> None:
        """Make the directory in which the task starts."""
        user = find_user(bundle.container)
        work_dir = self._directory / "work"
        make_directory(work_dir)
        if user is not None:
            os.chown(work_dir, user.uid, user.gid)

    def _spec(self, prepared: Prepared) -> TaskSpec:
        """Decide everything about the process."""
        return make_spec(self._known_bundle(), prepared.ports, self._directory / "work", prepared.files)

    # -- within -------------------------------------------------------------------------------------------------------

    def _known_bundle(self) -> TaskBundle:
        assert self._bundle is not None, "only an orphan has no bundle, and it is only removed"
        return self._bundle

    def _choose_ports(self, bundle: TaskBundle) -> tuple[ChosenPort, ...]:
        chosen: list[ChosenPort] = []
        try:
            chosen.extend(ChosenPort(need=need, number=self._ports.choose(need)) for need in bundle.ports)
            if not chosen and (marked_ports(bundle.container) or any(has_marks(each.data) for each in bundle.payloads)):
                need = PortNeed(target_port=0)
                chosen.append(ChosenPort(need=need, number=self._ports.choose(need), published=False))
        except ResourceExhausted as error:
            self._ports.release(tuple(chosen))
            raise Rejected(error.message) from error
        return tuple(chosen)

    def _write_files(self, bundle: TaskBundle, ports: tuple[ChosenPort, ...]) -> dict[str, str]:
        """Write secrets and configs and return the variables that name their directories; none when there are none."""
        user = find_user(bundle.container)
        owner = (user.uid, user.gid) if user is not None else None
        try:
            self._files.write(self._id, below_their_directories(bundle, port_numbers(ports)), owner)
        except OSError as error:
            raise Rejected(f"cannot write secrets and configs: {error}") from error
        top = self._files.directory(self._id)
        places = {SECRETS_VARIABLE: top / "secrets", CONFIGS_VARIABLE: top / "configs"}
        return {name: str(place) for name, place in places.items() if place.exists()}

    def _restore_files(self, prepared: Prepared) -> None:
        """Write files again that were in memory when the machine was restarted."""
        if not all(Path(folder).is_dir() for folder in prepared.files.values()):
            self._write_files(self._known_bundle(), prepared.ports)

    def _scratch(self) -> tuple[str, ...]:
        """Name what must go with the task when taskd removes it without us."""
        return (str(self._directory), str(self._files.directory(self._id)))

    async def _info(self) -> TaskInfo:
        self._must_exist()
        with as_driver_errors():
            return await self._client.inspect(self._id)

    def _may_exist(self) -> bool:
        """Tell whether taskd must be asked. A start that was cancelled may be on its way there, and the next request comes after it."""
        return self._client.is_connected or self._task_dir.exists()

    def _must_exist(self) -> None:
        """Spare taskd the question, and its start, when there is nothing."""
        if not self._may_exist():
            raise TaskGone("nothing of the task is left")

    @contextlib.contextmanager
    def _pipes_held(self) -> Iterator[None]:
        """Hold the task's pipes open: should taskd be killed and the task end before the next one comes, its last words are kept."""
        with contextlib.ExitStack() as held:
            for name in _PIPES:
                with contextlib.suppress(FileNotFoundError):
                    pipe = os.open(self._task_dir / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                    held.callback(os.close, pipe)
            yield

    async def _log_ended(self, segment: int, records: int) -> bool:
        try:
            return await self._client.await_log(self._id, segment, records)
        except NotFound:
            return True


@contextlib.contextmanager
def as_temporary() -> Iterator[None]:
    """Say that a taskd out of reach may be back later."""
    try:
        yield
    except Unavailable as error:
        raise Temporary(error.message) from error


@contextlib.contextmanager
def as_driver_errors() -> Iterator[None]:
    """Say what the client's errors mean to a controller's caller."""
    with as_temporary():
        try:
            yield
        except NotFound as error:
            raise TaskGone(error.message) from error
        except (Internal, InvalidArgument) as error:
            raise Failed(f"taskd: {error.message}") from error


def bury(pid: int) -> None:
    """Reap the process of an ended task that became our child when taskd was killed; its exit status has been read."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def handle_of(info: TaskInfo) -> Handle:
    """Return the handle of a started task: its process, for people; the task's id finds everything."""
    return Handle(f"{info.pid}@{info.started_at:.3f}".encode())


def exit_of(info: TaskInfo) -> Exit:
    """Return how a task ended."""
    assert info.exit is not None, "asked after the end"
    end = info.exit
    message = end.message
    if end.code == LAUNCH_FAILED:
        message = f"task: non-zero exit ({LAUNCH_FAILED}); its log tells whether it ever began"
    return Exit(code=end.code, signal=end.signal, oom=end.oom, finished_at=end.at, message=message)


def read_prepared(directory: Path) -> Prepared | None:
    """Return what was decided for a task, or None when it was not prepared."""
    try:
        return msgspec.json.decode((directory / "prepared.json").read_bytes(), type=Prepared)
    except FileNotFoundError:
        return None


def has_tasks(tasks_dir: Path) -> bool:
    """Tell whether there is anything that taskd could hold."""
    return tasks_dir.is_dir() and any(not entry.name.startswith(".") for entry in tasks_dir.iterdir())
