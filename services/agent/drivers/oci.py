"""The oci driver: tasks as containers of runc or crun on a directory of the node, without an engine. taskd holds them.

A task is the process driver's (its logs, exit codes, ports and restarts come from there), only that its process is the runtime,
which waits for the container and passes signals on. Below ``<state-dir>/worker``:

    oci/<task id>      prepared.json; config.json and the root file system: the image below a layer that is the task's own
    oci-state          the runtime's own notes
    volumes/<name>     named volumes: what the next task with this volume on this node finds again

Containers need root. There is no seccomp profile, and the network is the node's, or none.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import zlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from services.agent.drivers.api import (
    Capabilities,
    Command,
    Conversation,
    DriverContext,
    Exit,
    Failed,
    Filesystem,
    Fingerprint,
    Handle,
    Option,
    Recovered,
    Rejected,
    Stats,
    TaskBundle,
    TaskGone,
    Temporary,
)
from services.agent.drivers.oci_exec import ContainerCommand
from services.agent.drivers.oci_runtime import Runtime, find_runtime, is_root, mount_overlay, unmount
from services.agent.drivers.oci_spec import DRIVER, OPTIONS, check, make_config, payload_path, signal_name
from services.agent.drivers.process import Prepared, ProcessController, ProcessDriver, read_prepared
from services.agent.drivers.process_exec import run_inside
from services.agent.drivers.process_spec import DEFAULT_PATH, log_limits, stop_signal
from services.agent.drivers.task_files import by_number
from services.agent.drivers.task_logs import LogReader
from services.agent.drivers.task_ports import ChosenPort, port_numbers
from services.agent.taskd.records import TaskSpec
from services.kit.model.ids import TaskId
from services.kit.model.states import MountType
from services.kit.runtime.files import make_directory, write_atomic
from services.kit.runtime.tasks import TaskOwner

STARTED: Final = "started.fifo"
"""Where the runtime's hook says that the container runs."""
LOG_OPTIONS: Final = ("log_bytes_max", "log_files_max")
_EXECS: Final = itertools.count(1)
_VOLUME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class OciDriver(ProcessDriver):
    """Runs tasks as containers of an OCI runtime."""

    name: ClassVar[str] = DRIVER

    def __init__(self) -> None:
        super().__init__()
        self._runtime: Runtime | None = None

    async def load(self, context: DriverContext) -> None:
        """Get ready, and find the runtime."""
        await super().load(context)
        program = find_runtime()
        if program is not None:
            mark = f"{zlib.crc32(str(context.state_dir.resolve()).encode()):08x}"
            self._runtime = Runtime(program, context.state_dir / "worker" / "oci-state", f"/swarmbus-oci-{mark}")

    def capabilities(self) -> Capabilities:
        """Return what it can do."""
        return Capabilities(
            filesystem=Filesystem.ROOTFS,
            mounts=frozenset({MountType.BIND, MountType.VOLUME, MountType.TMPFS}),
            limits=frozenset({"nano_cpus", "memory_bytes", "pids_limit"}),
        )

    def options(self) -> tuple[Option, ...]:
        """Return the driver options it understands."""
        return OPTIONS

    async def fingerprint(self) -> AsyncGenerator[Fingerprint]:
        """Yield whether there is a runtime that answers, and then what the process driver has to say."""
        if self._runtime is None or not is_root():
            reason = "there is no runc or crun on this node" if self._runtime is None else "containers need root"
            yield Fingerprint(healthy=False, reason=reason)
            await asyncio.get_running_loop().create_future()
            return
        try:
            version = await self._runtime.version()
        except (Failed, Temporary) as error:
            yield Fingerprint(healthy=False, reason=error.message)
            await asyncio.get_running_loop().create_future()
            return
        async with contextlib.aclosing(super().fingerprint()) as fingerprints:
            async for seen in fingerprints:
                yield replace(seen, version=version, unenforced=())

    async def recover(self) -> AsyncGenerator[Recovered]:
        """Yield what taskd holds of ours, and what was prepared only: it has a mount."""
        held: set[str] = set()
        async for found in super().recover():
            held.add(found.task_id)
            yield found
        context, _ = self._loaded()
        for directory in sorted((context.state_dir / "worker" / self.name).iterdir()):
            if directory.name not in held:
                yield Recovered(task_id=TaskId(directory.name), handle=Handle(b"prepared"), running=False)

    def _is_ours(self, task_id: str) -> bool:
        return not super()._is_ours(task_id)

    def _controller(self, task_id: TaskId, bundle: TaskBundle | None) -> OciController:
        context, client = self._loaded()
        if self._runtime is None:
            raise Rejected("there is no runc or crun on this node")
        assert self._ports is not None, "set by load"
        assert self._files is not None, "set by load"
        controller = OciController(
            task_id,
            bundle,
            client=client,
            directory=context.state_dir / "worker" / self.name / task_id,
            ports=self._ports,
            files=self._files,
        )
        controller.runtime = self._runtime
        return controller


class OciController(ProcessController):
    """One task as a container."""

    runtime: Runtime

    async def start(self) -> Handle:
        """Have taskd start the runtime, and return when the container runs."""
        fifo = self._directory / STARTED
        if not fifo.exists():
            os.mkfifo(fifo, 0o600)
        descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            handle = await super().start()
            async with TaskOwner("oci start") as owner:
                started = owner.spawn("started", _readable(descriptor))
                ended = owner.spawn("ended", super().wait())
                await asyncio.wait({started, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not started.done() and not _has_data(descriptor):
                    raise Failed(f"{Path(self.runtime.program).name}: {self._last_words()}", ended.result())
            return handle
        finally:
            os.close(descriptor)

    async def shutdown(self, grace_s: float) -> None:
        """Have the runtime pass the stop signal on, kill the container after the grace."""
        if not self._may_exist():
            return
        number = signal.SIGTERM if self._bundle is None else stop_signal(self._bundle.container)
        if await self.runtime.kill(self._id, signal_name(number)):
            with contextlib.suppress(TaskGone, TimeoutError):
                async with asyncio.timeout(grace_s):
                    await super().wait()
                return
        await self.terminate()

    async def terminate(self) -> None:
        """Kill the container; the runtime ends with it. The rest of it ends with its first process, as in every pid namespace."""
        if not self._may_exist():
            return
        await self.runtime.kill(self._id, "KILL")
        await super().terminate()
        # A runtime that was killed while it was still making the container may have left one that nobody waits for.
        await self.runtime.kill(self._id, "KILL")

    async def wait(self) -> Exit:
        """Wait for the end; a kill for want of memory is seen by the control group."""
        end = await super().wait()
        if not end.ok and self.runtime.ran_out_of_memory(self._id):
            return Exit(signal=signal.SIGKILL, oom=True, finished_at=end.finished_at)
        return end

    async def signal(self, number: int) -> None:
        """Send a signal to the container's main process."""
        if not await self.runtime.kill(self._id, signal_name(number)):
            raise TaskGone("the container does not run")

    async def remove(self) -> None:
        """End it if need be and delete everything but its named volumes."""
        await self.runtime.delete(self._id)
        if self._may_exist():
            await super().terminate()
            await self.runtime.delete(self._id)
        unmount(self._rootfs)
        await super().remove()

    async def stats(self) -> Stats:
        """Measure the container."""
        self._must_exist()
        return await asyncio.to_thread(self.runtime.stats, self._id)

    async def open_exec(self, command: Command) -> Conversation:
        """Run a command in the container, by the runtime."""
        prepared = read_prepared(self._directory)
        if prepared is None or (await self._info()).exit is not None:
            raise TaskGone("the task does not run")
        pid_file = self._directory / f"exec-{os.getpid()}-{next(_EXECS)}.pid"
        options = ["--pid-file", str(pid_file)]
        options += ["--tty"] if command.terminal else []
        options += ["--cwd", command.dir] if command.dir else []
        options += ["--user", command.user] if command.user else []
        options += [word for entry in command.env for word in ("--env", entry)]
        argv = self.runtime.command("exec", *options, self._id, *command.argv)
        plain = Command(argv=argv, terminal=command.terminal, input=command.input)
        return ContainerCommand(await run_inside(self._spec(prepared), self._task_dir, plain), pid_file)

    # -- what the process driver leaves to us ---------------------------------------------------------------------------

    @property
    def _rootfs(self) -> Path:
        return self._directory / "rootfs"

    def _admit(self, bundle: TaskBundle) -> None:
        check(bundle)
        options = bundle.spec.task.driver_options
        log_limits({name: options[name] for name in LOG_OPTIONS if name in options})
        stop_signal(bundle.container)

    def _make_place(self, bundle: TaskBundle, ports: tuple[ChosenPort, ...]) -> None:
        make_directory(self._directory)
        self._mount(bundle)

    def _write_files(self, bundle: TaskBundle, ports: tuple[ChosenPort, ...]) -> dict[str, str]:
        """Write secrets and configs, and the configuration that says where they belong."""
        files = tuple(by_number(bundle, port_numbers(ports)))
        try:
            self._files.write(self._id, files, None)
            top = self._files.directory(self._id)
            config = make_config(
                bundle,
                ports,
                root=self._rootfs,
                cgroup=self.runtime.cgroup(self._id),
                volumes=self._volumes(bundle),
                started_fifo=self._directory / STARTED,
                files={payload_path(file.payload.kind, file.payload.target.name): top / file.name for file in files},
            )
            write_atomic(self._directory / "config.json", msgspec.json.encode(config))
        except OSError as error:
            raise Rejected(f"cannot write the container's files: {error}") from error
        return {"files": str(top)} if files else {}

    def _restore_files(self, prepared: Prepared) -> None:
        """Make again what a restart of the machine took away."""
        self._mount(self._known_bundle())
        super()._restore_files(prepared)

    def _spec(self, prepared: Prepared) -> TaskSpec:
        bundle = self._known_bundle()
        options = bundle.spec.task.driver_options
        bytes_max, files_max = log_limits({name: options[name] for name in LOG_OPTIONS if name in options})
        return TaskSpec(
            id=self._id,
            command=self.runtime.command("run", "--keep", "--bundle", str(self._directory), self._id),
            env=(f"PATH={DEFAULT_PATH}",),
            directory=str(self._directory),
            log_bytes_max=bytes_max,
            log_files_max=files_max,
        )

    def _last_words(self) -> str:
        """Return the last line of the log: what the runtime could not do."""
        lines = LogReader(self._task_dir).read()
        return lines[-1].data.decode(errors="replace") if lines else "it ended without a word"

    def _scratch(self) -> tuple[str, ...]:
        return (str(self._files.directory(self._id)),)

    def _mount(self, bundle: TaskBundle) -> None:
        """Put a layer of the task's own over the image, unless nothing may be written anyway."""
        if os.path.ismount(self._rootfs):
            return
        for name in ("rootfs", "upper", "work"):
            make_directory(self._directory / name)
        (self._directory / "upper").chmod(0o755)
        lower = Path(bundle.container.image).resolve()
        if any(character in str(lower) for character in ",:\\"):
            raise Rejected(f"container.image: {lower} has a character that cannot be mounted")
        overlay = f"lowerdir={lower},upperdir={self._directory / 'upper'},workdir={self._directory / 'work'}"
        try:
            mount_overlay(self._rootfs, overlay)
        except OSError as error:
            raise Rejected(f"cannot put a layer over {lower}: {error.strerror}") from error

    def _volumes(self, bundle: TaskBundle) -> dict[int, Path]:
        """Make the directories of volume mounts; a named one is found again by the next task."""
        found: dict[int, Path] = {}
        for index, each in enumerate(bundle.container.mounts):
            if each.type is not MountType.VOLUME:
                continue
            if each.source and not _VOLUME.fullmatch(each.source):
                raise Rejected(f"container.mounts.{index}.source: {each.source!r} is no name of a volume")
            named = self._directory.parents[1] / "volumes" / each.source
            found[index] = named if each.source else self._directory / "volumes" / str(index)
            make_directory(found[index].parent)
            found[index].mkdir(mode=0o755, exist_ok=True)
        return found


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read."""
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


def _has_data(descriptor: int) -> bool:
    try:
        return os.read(descriptor, 1) != b""
    except BlockingIOError:
        return False
