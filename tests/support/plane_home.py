"""A data plane to test with: real workers under a keeper, tasks that say their name, clients that notice everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from services.gateway.core.table import Change
from services.gateway.shell.keeper import PlaneKeeper
from services.kit.messages.routes import Backend, Route
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.specs import IngressConfig
from services.kit.model.states import Protocol
from services.kit.runtime.clock import SystemClock
from tests.support.running import eventually

HOST = "127.0.0.1"
NODE = "n1"


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers connections; closing it drops those that are open, and waits until every socket is gone."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Die: refuse newcomers, drop everybody."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await eventually(lambda: not self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._handler(reader, writer)
        except ConnectionError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self._open.discard(writer)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Answer connections on the port that is returned."""
    server = Server(handler)
    await server.open()
    try:
        yield server.port
    finally:
        await server.close()


class NamedTask(Server):
    """A task that greets each line with its name, until the other side has ended its half; then it says goodbye."""

    def __init__(self, name: str) -> None:
        super().__init__(self._greet)
        self.name = name
        self.greeted = 0
        """Connections so far."""

    def backend(self, *, draining: bool = False) -> Backend:
        """Return it as the route table names it."""
        return backend(self.name, self.port, draining=draining)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.greeted += 1
        while line := await reader.readline():
            writer.write(self.name.encode() + b":" + line)
            await writer.drain()
        writer.write(b"bye\n")
        await writer.drain()


def backend(name: str, port: int, *, draining: bool = False, node: str = "n1", addr: str = HOST) -> Backend:
    """Return a task as the route table names it."""
    return Backend(task_id=TaskId(name), node_id=NodeId(node), addr=addr, port=port, draining=draining)


def route(
    port: int,
    *backends: Backend,
    ingress: IngressConfig | None = None,
    protocol: Protocol = Protocol.TCP,
    nodes: tuple[NodeId, ...] | None = None,
) -> Route:
    """Return a published port."""
    return Route(
        service_id=ServiceId("web"),
        service_name="web",
        published_port=port,
        protocol=protocol,
        ingress=ingress or IngressConfig(),
        nodes=nodes,
        backends=backends,
    )


@asynccontextmanager
async def tasks(*names: str) -> AsyncIterator[list[NamedTask]]:
    """Run these tasks."""
    running = [NamedTask(name) for name in names]
    for task in running:
        await task.open()
    try:
        yield running
    finally:
        for task in running:
            await task.close()


class Plane:
    """A keeper, and what it was told."""

    def __init__(
        self, directory: Path, *, workers: int = 1, orphan_s: float = 30.0, host: str = HOST, node: str = NODE
    ) -> None:
        self.confirmations: list[tuple[int, dict[str, int]]] = []
        self.epoch = 0
        self.keeper = PlaneKeeper(
            directory,
            host,
            node_id=node,
            workers=workers,
            orphan_s=orphan_s,
            clock=SystemClock(),
            confirmed=lambda epoch, counts: self.confirmations.append((epoch, counts)),
        )

    async def show(self, *routes: Route) -> None:
        """Make this the table and wait until every worker acts on it."""
        self.epoch += 1
        self.keeper.take(Change(epoch=self.epoch, full=True, routes=routes, removed=()))
        await eventually(lambda: any(epoch == self.epoch for epoch, _ in self.confirmations))

    @property
    def pids(self) -> list[int]:
        """Processes of the workers."""
        return [line.pid for line in self.keeper._lines]


@asynccontextmanager
async def plane(
    directory: Path, *, workers: int = 1, orphan_s: float = 30.0, host: str = HOST, node: str = NODE
) -> AsyncIterator[Plane]:
    """Run a data plane; no process of it is left at the end."""
    running = Plane(directory, workers=workers, orphan_s=orphan_s, host=host, node=node)
    await running.keeper.start()
    try:
        yield running
    finally:
        pids = running.pids
        await running.keeper.drain(0.2)
        for pid in pids:
            await gone(pid)


async def gone(pid: int) -> None:
    """Wait for the end of a process; one that stays is killed, and that is a failure."""
    try:
        await eventually(lambda: not Path(f"/proc/{pid}").exists() or is_zombie(pid), 5.0)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended but was not reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def descriptors(pid: int) -> int:
    """Count the open files of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Visitor:
    """A client with one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def come(cls, port: int, host: str = HOST) -> Visitor:
        """Connect."""
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, word: str = "hello") -> str:
        """Say a line and return the name of the task that greeted it."""
        self.writer.write(f"{word}\n".encode())
        line = (await self.reader.readline()).decode()
        name, _, echoed = line.rstrip("\n").partition(":")
        assert echoed == word, f"answered {line!r}"
        return name

    async def leave(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def visit(port: int) -> str:
    """Connect, ask once, hang up; return who answered."""
    visitor = await Visitor.come(port)
    try:
        return await visitor.ask()
    finally:
        await visitor.leave()
