"""The door to the Docker engine: the only file that imports the docker package. Used by the docker driver.

The package blocks, so each call runs in a bounded pool of threads; streams (events, logs) have a thread each. Calls that make the engine work
hard (create, start, kill, remove) share a semaphore, because more than two per core only queue inside the engine. A call that was begun is
waited for even when its caller is cancelled: the engine does it anyway, and the next verb must see its effect.

What comes back is typed (``docker_spec``); what goes wrong is one of four errors: NotFound, AlreadyExists (the engine's 409), Temporary (the engine
does not answer), EngineRefused (everything else it says no to).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import docker
import msgspec
import requests
from docker.auth import get_config_header as config_header
from docker.auth import resolve_repository_name
from docker.errors import APIError, DockerException
from docker.errors import NotFound as NoSuchThing
from docker.types import CancellableStream

from services.agent.drivers.api import DriverError, Temporary
from services.agent.drivers.docker_attach import Attached, EngineRefused
from services.agent.drivers.docker_pull import PullProgress
from services.agent.drivers.docker_spec import NODE_LABEL, TASK_LABEL, ApiVersion, Json
from services.agent.drivers.docker_state import Inspected, Measured
from services.kit.errors import AlreadyExists, NotFound
from services.kit.model.ids import NodeId
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import Clock

CALL_TIMEOUT_S = 60
CORES = os.cpu_count() or 1
HARD_CALLS_MAX = 2 * CORES
THREADS_MAX = HARD_CALLS_MAX + 6
PULLS_MAX = 2
RECONNECT_FIRST_S = 0.5
RECONNECT_MAX_S = 10.0
STREAM_ITEMS_MAX = 16
EVENTS = ("start", "die", "oom", "health_status", "destroy", "kill", "exec_die")

ResultT = TypeVar("ResultT")


class EngineInfo(msgspec.Struct, frozen=True):
    """What the engine says of itself."""

    version: str = msgspec.field(default="", name="ServerVersion")
    labels: list[str] | None = msgspec.field(default=None, name="Labels")
    storage: str = msgspec.field(default="", name="Driver")
    live_restore: bool = msgspec.field(default=False, name="LiveRestoreEnabled")
    memory_limit: bool = msgspec.field(default=True, name="MemoryLimit")
    cpu_quota: bool = msgspec.field(default=True, name="CpuCfsQuota")
    pids_limit: bool = msgspec.field(default=True, name="PidsLimit")
    plugins: dict[str, list[str] | None] = msgspec.field(default_factory=dict, name="Plugins")


class Summary(msgspec.Struct, frozen=True):
    """A container in a list."""

    id: str = msgspec.field(name="Id")
    state: str = msgspec.field(default="", name="State")
    labels: dict[str, str] = msgspec.field(default_factory=dict, name="Labels")


class ExecState(msgspec.Struct, frozen=True):
    """A command in a container."""

    running: bool = msgspec.field(default=False, name="Running")
    exit_code: int | None = msgspec.field(default=None, name="ExitCode")
    pid: int = msgspec.field(default=0, name="Pid")
    """On the node; 0 until it runs."""


class Engine:
    """One Docker engine behind its local socket."""

    def __init__(self, socket: str, node_id: NodeId, changed: Changes, clock: Clock) -> None:
        self.info: EngineInfo | None = None
        """What it said when it was reached last; None while it does not answer."""
        self.problem = ""
        """Why there is no ``info``; empty until it was asked for the first time."""
        self._clock = clock
        self._changed = changed
        self._socket = socket
        self._node_id = node_id
        self._pool = ThreadPoolExecutor(max_workers=THREADS_MAX, thread_name_prefix="docker")
        self._hard = asyncio.Semaphore(HARD_CALLS_MAX)
        self._pulls = asyncio.Semaphore(PULLS_MAX)
        self._made: _Lent | None = None
        self._lending = threading.Lock()
        self._watched: dict[str, set[asyncio.Event]] = {}
        self.networking = asyncio.Lock()
        """Held while a container is put on networks, so that none of them is taken for unused meanwhile."""

    # -- following the engine --

    async def follow(self) -> None:
        """Keep knowing whether the engine answers, announce when that changes, wake who waits for a container; runs until cancelled."""
        pause_s = RECONNECT_FIRST_S
        while True:
            try:
                self.info = msgspec.convert(await self._call(lambda client: client.info()), EngineInfo)
                self.problem = ""
                self._wake(None)
                self._changed.announce()
                pause_s = RECONNECT_FIRST_S
                await self._follow_events()
                self.problem = "the Docker engine ended its events"
            except (DriverError, NotFound, AlreadyExists) as error:
                self.problem = str(error)
            self.info = None
            self._changed.announce()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RECONNECT_MAX_S)

    @contextmanager
    def watching(self, name: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when something may have happened to a container: a hint, look for yourself."""
        event = asyncio.Event()
        self._watched.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            events = self._watched[name]
            events.discard(event)
            if not events:
                del self._watched[name]

    def close(self) -> None:
        """Let go of the engine; a call that still runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._drop()

    # -- containers --

    async def inspect(self, name: str) -> Inspected | None:
        """Return a container, or None when there is none of this name or id."""
        try:
            found = await self._call(lambda client: client.inspect_container(name))
        except NotFound:
            return None
        return msgspec.convert(found, Inspected)

    async def find_ours(self) -> tuple[Summary, ...]:
        """Return all containers of this node that carry our labels."""
        labels = [f"{NODE_LABEL}={self._node_id}", TASK_LABEL]
        found = await self._call(lambda client: client.containers(all=True, filters={"label": labels}))
        return msgspec.convert(found, tuple[Summary, ...])

    async def create(self, name: str, config: Json) -> str:
        """Make a container and return its id; AlreadyExists when the name is taken."""
        async with self._hard:
            made = await self._call(lambda client: client.create_container_from_config(config, name))
        return str(made["Id"])

    async def start(self, name: str) -> None:
        """Start a container."""
        async with self._hard:
            await self._call(lambda client: client.start(name))

    async def kill(self, name: str, signal: str) -> None:
        """Send a signal; AlreadyExists (the engine's conflict) when it does not run."""
        async with self._hard:
            await self._call(lambda client: client.kill(name, signal))

    async def remove(self, name: str) -> None:
        """Remove a container and its anonymous volumes, running or not."""
        async with self._hard:
            await self._call(lambda client: client.remove_container(name, v=True, force=True))

    async def make_network(self, config: Json) -> None:
        """Make a network unless there is one of its name."""
        with suppress(AlreadyExists):
            if not await self._call(lambda client: client.networks(names=[config["name"]])):
                await self._call(lambda client: client.create_network(**config))

    async def connect(self, network: str, container: str, config: Json) -> None:
        """Put a container on one network more; one that is there already stays."""
        with suppress(AlreadyExists):
            await self._call(lambda client: client.connect_container_to_network(container, network, **config))

    async def drop_network(self, name: str) -> None:
        """Remove a network that no container is on, started or not."""
        users = await self._call(lambda client: client.containers(all=True, filters={"network": name}))
        if not users:
            with suppress(NotFound):
                await self._call(lambda client: client.remove_network(name))

    async def has_image(self, image: str) -> bool:
        """Tell whether an image is on the node."""
        try:
            await self._call(lambda client: client.inspect_image(image))
        except NotFound:
            return False
        return True

    async def pull(self, image: str, registry_auth: str, tell: Callable[[str], None]) -> None:
        """Fetch an image, telling how it goes; a cancelled pull is given up by the engine too. Raises EngineRefused."""
        repository, tag = _split_image(image)
        progress = PullProgress(image)

        def open_stream(client: docker.APIClient) -> CancellableStream:
            # The engine takes the credentials in the form that specs carry them in; without any, those of our user's docker login are used.
            header = registry_auth or config_header(client, resolve_repository_name(repository)[0])
            response = client.post(
                f"{client.base_url}/v{client.api_version}/images/create",
                params={"fromImage": repository, "tag": tag},
                headers={"X-Registry-Auth": header} if header else {},
                stream=True,
                timeout=None,
            )
            client._raise_for_status(response)
            return CancellableStream(client._stream_helper(response, decode=True), response)

        async with self._pulls, self._stream(open_stream) as lines:
            async for line in lines:
                if "error" in line:
                    raise EngineRefused(str(line["error"]))
                if message := progress.take(line, self._clock.monotonic()):
                    tell(message)

    async def api_version(self) -> ApiVersion:
        """Return the version of the API that we speak with this engine."""
        major, minor = str(await self._call(lambda client: client.api_version)).split(".")
        return int(major), int(minor)

    async def stats(self, name: str) -> Measured:
        """Measure a container."""
        found = await self._call(lambda client: client.stats(name, stream=False, one_shot=True))
        return msgspec.convert(found, Measured, strict=False)

    @asynccontextmanager
    async def logs(self, name: str, options: Mapping[str, str]) -> AsyncGenerator[AsyncGenerator[bytes]]:
        """Open a container's log as the engine frames it; closing the context ends the stream."""

        def open_stream(client: docker.APIClient) -> CancellableStream:
            url = f"{client.base_url}/v{client.api_version}/containers/{name}/logs"
            response = client.get(url, params=dict(options), stream=True, timeout=None)
            if response.status_code == requests.codes.not_found:
                raise NotFound(f"there is no container {name}")
            if not response.ok:
                raise EngineRefused(response.text.strip())
            return CancellableStream(response.iter_content(None), response)

        async with self._stream(open_stream) as items:
            yield items

    # -- processes in containers --

    async def make_exec(self, name: str, config: Json) -> str:
        """Prepare a command in a running container and return its id."""

        def make(client: docker.APIClient) -> str:
            url = f"{client.base_url}/v{client.api_version}/containers/{name}/exec"
            response = client.post(url, json=config, timeout=CALL_TIMEOUT_S)
            client._raise_for_status(response)
            return str(response.json()["Id"])

        return await self._call(make)

    async def start_exec(self, exec_id: str, *, terminal: bool) -> Attached:
        """Start a prepared command and talk with it."""
        version = await self._call(lambda client: client.api_version)
        path = f"/v{version}/exec/{exec_id}/start"
        return await Attached.open(self._socket, path, {"Detach": False, "Tty": terminal}, terminal=terminal)

    async def inspect_exec(self, exec_id: str) -> ExecState:
        """Return how a command is."""
        return msgspec.convert(await self._call(lambda client: client.exec_inspect(exec_id)), ExecState)

    async def resize_exec(self, exec_id: str, rows: int, columns: int) -> None:
        """Tell a command's terminal its size."""
        await self._call(lambda client: client.exec_resize(exec_id, height=rows, width=columns))

    async def attach(self, name: str, *, terminal: bool) -> Attached:
        """Talk with a container's main process."""
        version = await self._call(lambda client: client.api_version)
        path = f"/v{version}/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        return await Attached.open(self._socket, path, {}, terminal=terminal)

    async def resize(self, name: str, rows: int, columns: int) -> None:
        """Tell a container's terminal its size."""
        await self._call(lambda client: client.resize(name, height=rows, width=columns))

    # -- inside --

    async def _follow_events(self) -> None:
        filters = {"type": ["container"], "label": [f"{NODE_LABEL}={self._node_id}"], "event": list(EVENTS)}
        async with self._stream(lambda client: client.events(filters=filters, decode=True)) as events:
            async for event in events:
                actor = event.get("Actor", {})
                self._wake(actor.get("Attributes", {}).get("name"))

    def _wake(self, name: str | None) -> None:
        names = list(self._watched) if name is None else [name]
        for each in names:
            for event in self._watched.get(each, ()):
                event.set()

    async def _call(self, work: Callable[[docker.APIClient], ResultT]) -> ResultT:
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._translated, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            if not future.cancelled():
                future.exception()
            raise

    def _translated(self, work: Callable[[docker.APIClient], ResultT]) -> ResultT:
        """Do the work in a thread and turn the package's errors into ours."""
        try:
            with self._client() as client:
                return work(client)
        except NoSuchThing as error:
            raise NotFound(_explanation(error)) from None
        except APIError as error:
            if error.status_code == requests.codes.conflict:
                raise AlreadyExists(_explanation(error)) from None
            raise EngineRefused(_explanation(error)) from None
        except (DockerException, requests.RequestException, OSError) as error:
            self._drop()
            raise Temporary(f"the Docker engine at {self._socket} does not answer: {_cause(error)}") from None

    @contextmanager
    def _client(self) -> Iterator[docker.APIClient]:
        """Lend the client, made when first needed and after the engine was gone: it asks for the engine's version."""
        with self._lending:
            if self._made is None:
                client = docker.APIClient(
                    base_url=f"unix://{self._socket}", timeout=CALL_TIMEOUT_S, max_pool_size=THREADS_MAX
                )
                self._made = _Lent(client)
            lent = self._made
            lent.users += 1
        try:
            yield lent.client
        finally:
            with self._lending:
                lent.users -= 1
                lent.close_if_unused()

    def _drop(self) -> None:
        """Use this client for nothing new; it is closed by its last user, because one that is used after its end opens anew."""
        with self._lending:
            lent, self._made = self._made, None
            if lent is not None:
                lent.dropped = True
                lent.close_if_unused()

    @asynccontextmanager
    async def _stream(
        self, open_stream: Callable[[docker.APIClient], CancellableStream]
    ) -> AsyncGenerator[AsyncGenerator[Any]]:
        stream = await self._call(open_stream)
        pump = _Pump(stream)
        try:
            yield pump.items()
        finally:
            pump.close()


class _Lent:
    """A client and how many threads use it now."""

    def __init__(self, client: docker.APIClient) -> None:
        self.client = client
        self.users = 0
        self.dropped = False

    def close_if_unused(self) -> None:
        """Close it when it was dropped and nobody uses it any more."""
        if self.dropped and not self.users:
            self.client.close()


class _Pump:
    """Carries the items of a blocking stream from a thread of its own into the loop, at most so many ahead."""

    def __init__(self, stream: CancellableStream) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[object] = asyncio.Queue()
        self._room = threading.Semaphore(STREAM_ITEMS_MAX)
        self._closed = False
        threading.Thread(target=self._run, name="docker-stream", daemon=True).start()

    async def items(self) -> AsyncGenerator[Any]:
        """Yield the items until the stream ends."""
        while (item := await self._queue.get()) is not None:
            self._room.release()
            yield item

    def close(self) -> None:
        """End the stream and its thread."""
        self._closed = True
        self._room.release()
        try:
            self._stream.close()
        except (OSError, AttributeError):
            # It ended by itself: the package then finds no socket to shut.
            return

    def _run(self) -> None:
        try:
            for item in self._stream:
                self._room.acquire()
                if self._closed:
                    return
                self._put(item)
        except (requests.RequestException, DockerException, OSError, ValueError, AttributeError):
            # The stream broke, or was shut under the reader: both are its end, and the reader looks for itself.
            self._put(None)
        else:
            self._put(None)

    def _put(self, item: object) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:
            self._closed = True  # the loop is closed: nobody reads any more


def _split_image(image: str) -> tuple[str, str | None]:
    """Return repository and tag (or digest); a reference without either means latest."""
    if "@" in image:
        repository, _, digest = image.partition("@")
        return repository, digest
    head, slash, tail = image.rpartition("/")
    name, _, tag = tail.partition(":")
    return f"{head}{slash}{name}", tag or "latest"


def _explanation(error: APIError) -> str:
    return str(error.explanation or error)


def _cause(error: BaseException) -> str:
    """Return the innermost reason of the package's nested errors."""
    text = str(error)
    for known in ("Connection refused", "No such file or directory", "Permission denied", "timed out"):
        if known in text:
            return known
    return text
