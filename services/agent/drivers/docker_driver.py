"""The docker driver: tasks as containers of a Docker engine.

A task's container is named after the task and labelled with it, so that it is found again whoever made it. The engine is asked, never remembered:
its events are hints to look again. Containers run on when the agent ends; whether they outlive the engine is the engine's setting
(``live-restore``), and the fingerprint says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from services.agent.drivers.api import (
    API_VERSION,
    AlreadyPrepared,
    AlreadyStarted,
    Capabilities,
    Command,
    Conversation,
    DriverContext,
    DriverError,
    Exit,
    Failed,
    Filesystem,
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
from services.agent.drivers.docker_conversation import AttachConversation, ExecConversation
from services.agent.drivers.docker_logs import LogReader
from services.agent.drivers.docker_networks import connect_config, engine_network, network_config
from services.agent.drivers.docker_spec import (
    OPTIONS,
    TASK_LABEL,
    Json,
    check,
    container_config,
    network_of,
    payload_path,
    port_numbers,
)
from services.agent.drivers.docker_state import Inspected, exit_of, port_statuses, stats_of
from services.agent.drivers.task_files import FileStore, by_number
from services.kit.errors import AlreadyExists, NotFound
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import TaskId
from services.kit.model.objects import EngineDescription
from services.kit.model.states import LogStream, MountType
from services.kit.runtime.changes import Changes

if TYPE_CHECKING:
    from services.agent.drivers.docker import Engine

LOOK_FOR_ENGINE_S = 10.0
LOOK_AGAIN_S = 30.0
"""A container is looked at this often even when no event came."""


class DockerDriver:
    """Runs tasks as containers."""

    name: ClassVar[str] = "docker"
    api: ClassVar[int] = API_VERSION

    def __init__(self) -> None:
        self._context: DriverContext | None = None
        self._engine: Engine | None = None
        self._changed = Changes()

    async def load(self, context: DriverContext) -> None:
        """Look for the engine."""
        self._context = context
        context.tasks.spawn("docker engine", self._follow(context))

    async def unload(self) -> None:
        """Let go of the engine."""
        if self._engine is not None:
            self._engine.close()

    def capabilities(self) -> Capabilities:
        """Return what it can do."""
        return Capabilities(
            filesystem=Filesystem.IMAGE,
            networks=True,
            mounts=frozenset({MountType.BIND, MountType.VOLUME, MountType.TMPFS}),
            limits=frozenset({"nano_cpus", "memory_bytes", "pids_limit"}),
        )

    def options(self) -> tuple[Option, ...]:
        """Return the driver options it understands."""
        return OPTIONS

    async def fingerprint(self) -> AsyncGenerator[Fingerprint]:
        """Yield whether the engine answers, each time that changes."""
        seen: Fingerprint | None = None
        while True:
            while (now := self._fingerprint()) is None or now == seen:
                await self._changed.wait()
            seen = now
            yield now

    async def recover(self) -> AsyncGenerator[Recovered]:
        """Yield every container with our labels."""
        for found in await self._loaded().find_ours():
            task_id = TaskId(found.labels[TASK_LABEL])
            yield Recovered(task_id=task_id, handle=Handle(found.id.encode()), running=found.state == "running")

    async def controller(self, bundle: TaskBundle, handle: Handle | None = None) -> DockerController:
        """Return the controller of a task; its container is found by name."""
        assert self._context is not None, "the driver is loaded first"
        return DockerController(self._loaded(), bundle, self._context, self._files())

    async def discard(self, orphan: Recovered) -> None:
        """Remove a container that nobody knows."""
        try:
            await self._loaded().remove(orphan.handle.decode())
        except NotFound:
            self._files().remove(orphan.task_id)
        else:
            self._files().remove(orphan.task_id)

    def _files(self) -> FileStore:
        assert self._context is not None, "the driver is loaded first"
        return FileStore.of(self._context.state_dir)

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise Temporary(f"there is no Docker engine at {self._socket()}")
        return self._engine

    def _socket(self) -> str:
        assert self._context is not None, "the driver is loaded first"
        return self._context.docker_socket

    async def _follow(self, context: DriverContext) -> None:
        """Import the package, which is large, once there is an engine to talk to, and follow that."""
        while not _exists(context.docker_socket):  # noqa: ASYNC110 - nothing announces a socket that appears
            await asyncio.sleep(LOOK_FOR_ENGINE_S)
        from services.agent.drivers.docker import Engine  # noqa: PLC0415 - see above

        self._engine = Engine(context.docker_socket, context.node_id, self._changed, context.clock)
        await self._engine.follow()

    def _fingerprint(self) -> Fingerprint | None:
        """Return what is known, or None while the engine is being asked for the first time."""
        engine = self._engine
        if engine is None and _exists(self._socket()):
            return None
        if engine is None:
            return Fingerprint(healthy=False, reason=f"there is no Docker engine at {self._socket()}")
        info = engine.info
        if info is None:
            return Fingerprint(healthy=False, reason=engine.problem) if engine.problem else None
        enforced = {"cpu": info.cpu_quota, "memory": info.memory_limit, "pids": info.pids_limit}
        labels = dict(label.partition("=")[::2] for label in info.labels or ())
        plugins = tuple(f"{kind}/{name}" for kind, names in sorted(info.plugins.items()) for name in names or ())
        return Fingerprint(
            healthy=True,
            version=info.version,
            attributes={"docker.storage": info.storage, "docker.live_restore": str(info.live_restore).lower()},
            unenforced=tuple(limit for limit, able in sorted(enforced.items()) if not able),
            engine=EngineDescription(name="docker", version=info.version, labels=labels, plugins=plugins),
        )


class DockerController:
    """One task as a container."""

    def __init__(self, engine: Engine, bundle: TaskBundle, context: DriverContext, files: FileStore) -> None:
        self._engine = engine
        self._bundle = bundle
        self._addr = context.addr
        self._credentials = context.credentials
        self._files = files
        self._name = bundle.name
        self._tell: Callable[[str], None] = _nobody

    async def update(self, bundle: TaskBundle) -> None:
        """Take over the bundle; nothing of a running container changes."""
        self._bundle = bundle

    async def prepare(self) -> None:
        """Check the spec, fetch the image when it is not here, make the container."""
        check(self._bundle, await self._engine.api_version())
        if await self._ours() is not None:
            raise AlreadyPrepared("prepared before")
        await self._fetch_image()
        config = container_config(self._bundle, addr=self._addr, files=self._write_files())
        try:
            await self._make(config)
        except AlreadyExists as error:
            if await self._ours() is None:
                raise Rejected(f"the name {self._name} is taken by a container that is not ours") from error
            raise AlreadyPrepared("prepared before") from None
        except (Temporary, Rejected):
            raise
        except (DriverError, NotFound) as error:
            raise Rejected(str(error)) from error

    async def _make(self, config: Json) -> None:
        """Make the container, and before it the networks that it is on."""
        attachments = self._bundle.attachments
        if not attachments:
            await self._engine.create(self._name, config)
            return
        async with self._engine.networking:
            for each in attachments:
                await self._engine.make_network(network_config(each.network))
            made = await self._engine.create(self._name, config)
            try:
                for each in attachments[1:]:
                    await self._engine.connect(engine_network(each.network.id), made, connect_config(each))
            except BaseException:
                await asyncio.shield(self._engine.remove(made))  # half attached is not prepared
                raise

    async def start(self) -> Handle:
        """Start the container."""
        seen = await self._ours()
        if seen is None:
            raise Failed("the container is gone")
        handle = Handle(seen.id.encode())
        if seen.started:
            raise AlreadyStarted(handle)
        try:
            await self._engine.start(seen.id)
        except Temporary:
            raise
        except (DriverError, NotFound, AlreadyExists) as error:
            raise Failed(str(error)) from error
        return handle

    async def ready(self) -> None:
        """Wait for the first healthy answer of a task that has a health check."""
        with self._engine.watching(self._name) as news:
            while True:
                news.clear()
                seen = await self._started()
                if not seen.has_check:
                    # It serves from the start; how it ended meanwhile is the wait's business.
                    return
                if seen.ended:
                    end = exit_of(seen)
                    raise Failed(f"ended before it was healthy: {end.reason}", end)
                if seen.unhealthy:
                    await self.shutdown(self._bundle.container.stop_grace_period_s)
                    raise Failed("unhealthy container")
                if seen.healthy:
                    return
                await _next(news)

    async def inspect(self) -> Observed:
        """Return id, pid and ports of the container."""
        seen = await self._started()
        host_network = network_of(self._bundle) == "host"
        ports = port_statuses(self._bundle.ports, seen, host_network=host_network)
        return Observed(container_id=seen.id, pid=seen.state.pid, ports=ports, address=seen.network.address)

    async def wait(self) -> Exit:
        """Wait for the end; an engine that is away for a while is waited for as well."""
        with self._engine.watching(self._name) as news:
            while True:
                news.clear()
                try:
                    seen = await self._started()
                except Temporary:
                    await _next(news)
                    continue
                if seen.ended:
                    # What has ended needs no secrets any more; its log stays until it is removed.
                    self._files.remove(self._bundle.id)
                    return exit_of(seen)
                if seen.unhealthy:
                    await self.shutdown(self._bundle.container.stop_grace_period_s)
                    return Exit(code=exit_of(await self._started()).code, message="unhealthy container")
                await _next(news)

    async def shutdown(self, grace_s: float) -> None:
        """Send the stop signal, kill after the grace period."""
        seen = await self._ours()
        if seen is None or not seen.started or seen.ended:
            return
        if await self._kill_and_wait(seen, seen.config.stop_signal or "SIGTERM", grace_s):
            return
        await self.terminate()

    async def terminate(self) -> None:
        """Kill the container."""
        seen = await self._ours()
        if seen is not None and seen.started and not seen.ended:
            await self._kill_and_wait(seen, "SIGKILL", None)

    async def remove(self) -> None:
        """Remove container, anonymous volumes and payload files."""
        seen = await self._ours()
        if seen is not None:
            try:
                await self._engine.remove(seen.id)
            except AlreadyExists as error:
                raise Temporary(str(error), retry_after_s=0.5) from error  # its removal is under way
            except NotFound:
                seen = None
        self._files.remove(self._bundle.id)
        await self._leave_networks()

    async def close(self) -> None:
        """Nothing is held."""

    async def logs(self, options: LogOptions) -> AsyncGenerator[tuple[Line, ...]]:
        """Yield the container's log as the engine keeps it."""
        seen = await self._ours()
        if seen is None:
            return
        wanted = options.streams or tuple(LogStream)
        parameters = {
            "stdout": str(int(LogStream.STDOUT in wanted)),
            "stderr": str(int(LogStream.STDERR in wanted)),
            "follow": str(int(options.follow)),
            "timestamps": "1",
            "tail": "all" if options.tail < 0 else str(options.tail),
            "since": f"{options.since:.9f}" if options.since else "0",
        }
        reader = LogReader(tty=seen.config.tty)
        async with self._engine.logs(seen.id, parameters) as pieces:
            async for piece in pieces:
                if lines := reader.feed(piece):
                    yield lines
        if lines := reader.end():
            yield lines

    async def open_exec(self, command: Command) -> Conversation:
        """Run a command in the container."""
        seen = await self._started()
        if seen.ended:
            raise TaskGone("the container has ended")
        config = {
            "Cmd": list(command.argv),
            "Env": list(command.env),
            "WorkingDir": command.dir,
            "User": command.user,
            "Tty": command.terminal,
            "AttachStdin": command.input,
            "AttachStdout": True,
            "AttachStderr": True,
        }
        try:
            exec_id = await self._engine.make_exec(seen.id, config)
            attached = await self._engine.start_exec(exec_id, terminal=command.terminal)
        except Temporary:
            raise
        except (DriverError, NotFound, AlreadyExists) as error:
            raise Failed(str(error)) from error
        return ExecConversation(self._engine, self._name, seen.id, exec_id, attached)

    async def attach(self) -> Conversation:
        """Join the container's main process."""
        seen = await self._started()
        if seen.ended:
            raise TaskGone("the container has ended")
        try:
            attached = await self._engine.attach(seen.id, terminal=seen.config.tty)
        except Temporary:
            raise
        except (DriverError, NotFound, AlreadyExists) as error:
            raise Failed(str(error)) from error
        return AttachConversation(self._engine, self, seen.id, attached)

    def on_progress(self, tell: Callable[[str], None]) -> None:
        """Tell this one how the download of the image goes."""
        self._tell = tell

    async def signal(self, number: int) -> None:
        """Send a signal to the container's main process."""
        seen = await self._started()
        try:
            await self._engine.kill(seen.id, str(number))
        except AlreadyExists:
            raise TaskGone("the container has ended") from None

    async def stats(self) -> Stats:
        """Measure the container."""
        seen = await self._started()
        return stats_of(await self._engine.stats(seen.id))

    async def _ours(self) -> Inspected | None:
        """Return the task's container; a foreign one of the same name is none."""
        seen = await self._engine.inspect(self._name)
        if seen is None or (seen.config.labels or {}).get(TASK_LABEL) != self._bundle.id:
            return None
        return seen

    async def _leave_networks(self) -> None:
        """Remove the engine's networks that this was the last task of; one that cannot be removed now goes with a later task."""
        for each in self._bundle.spec.task.networks:
            async with self._engine.networking:
                with suppress(DriverError):
                    await self._engine.drop_network(engine_network(each.target))

    async def _started(self) -> Inspected:
        seen = await self._ours()
        if seen is None:
            raise TaskGone(f"the container of task {self._bundle.id} is gone")
        if not seen.started:
            raise TaskGone(f"the container of task {self._bundle.id} was not started")
        return seen

    async def _kill_and_wait(self, seen: Inspected, signal: str, limit_s: float | None) -> bool:
        """Send a signal and wait for the end, at most so long; tell whether it ended."""
        try:
            async with asyncio.timeout(limit_s):
                with self._engine.watching(self._name) as news:
                    try:
                        await self._engine.kill(seen.id, signal)
                    except (NotFound, AlreadyExists):
                        return True
                    while True:
                        news.clear()
                        now = await self._ours()
                        if now is None or now.ended:
                            return True
                        await _next(news)
        except TimeoutError:
            return False

    async def _fetch_image(self) -> None:
        image = self._bundle.container.image
        if await self._engine.has_image(image):
            return
        try:
            auth = self._bundle.container.registry_auth or self._credentials.find(image)
            await self._engine.pull(image, auth, self._tell)
        except Temporary:
            raise
        except (DriverError, NotFound, ValueError) as error:
            raise Rejected(f"cannot get image {image}: {error}") from error

    def _write_files(self) -> dict[str, Path]:
        """Write secrets and configs, and say which file belongs where in the container."""
        bundle = self._bundle
        files = tuple(by_number(bundle, port_numbers(bundle)))
        try:
            self._files.write(bundle.id, files, None)
        except OSError as error:
            raise Rejected(f"cannot write secrets and configs: {error}") from error
        top = self._files.directory(bundle.id)
        return {payload_path(file.payload): top / file.name for file in files}


def _nobody(_: str) -> None:
    """Tell nobody."""


def _exists(path: str) -> bool:
    return Path(path).exists()


async def _next(news: asyncio.Event) -> None:
    """Wait until something may have happened, or long enough to look without a hint."""
    try:
        async with asyncio.timeout(LOOK_AGAIN_S):
            await news.wait()
    except TimeoutError:
        return
