"""Raft processes in one event loop, over the in-memory bus: each with its state directory, its facts, and a door for joiners."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from services.kit.bus.api import Caller, Context, LocalAddress, Meta
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.bus.rpc import Table
from services.kit.lifecycle.app import Runtime
from services.kit.messages import store
from services.kit.messages.method import MANAGER
from services.kit.messages.supervise import Facts
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds
from services.kit.store.client import StoreClient
from services.kit.store.line import Dial, local
from services.kit.store.replica import Replica
from services.raft.config import RaftSettings
from services.raft.shell.app import RaftApp

CLUSTER = ClusterId("cluster")


class StandInNode:
    """What the supervisor would say."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._changed = Changes()

    @property
    def facts(self) -> Facts:
        return self._facts

    async def changes(self) -> AsyncIterator[Facts]:
        while True:
            await self._changed.wait()
            yield self._facts

    def set(self, facts: Facts) -> None:
        self._facts = facts
        self._changed.announce()

    async def report_lock(self, unlock_key: bytes) -> None:
        """Nobody listens."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        raise AssertionError("raft does not report managers")

    async def report_node(self, report: object) -> None:
        raise AssertionError("raft does not report the node")

    async def report_ready(self) -> None:
        raise AssertionError("the lifecycle does that")


@dataclass
class Home:
    """One manager: what survives its raft process, and the process while it runs."""

    name: str
    port: int
    directory: Path
    network: MemoryNetwork
    known: tuple[ManagerPeer, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    app: RaftApp | None = None
    bus: MemoryBus | None = None
    serving: asyncio.Task[None] | None = None
    clients: list[StoreClient | Replica] = field(default_factory=list)

    @property
    def peer(self) -> ManagerPeer:
        return ManagerPeer(node_id=NodeId(self.name), addr=f"{self.name}:{self.port}", certificate=self.name.encode())

    @property
    def socket(self) -> str:
        return str(self.directory / "run" / "raft.sock")

    async def start(self, **more: object) -> None:
        """Run the raft process and the door."""
        identity = Caller(node_id=self.name, role=MANAGER, cluster_id=CLUSTER)
        self.bus = MemoryBus(self.network, identity, host=self.name, process="raft")
        facts = Facts(
            node_id=NodeId(self.name),
            cluster_id=CLUSTER,
            role=Role.MANAGER,
            certificates_dir="",
            identity_serial=1,
            remote_addr=f"{self.name}:{self.port}",
            managers=(self.peer, *self.known),
        )
        runtime = Runtime(
            process="raft",
            clock=SystemClock(),
            ids=SystemIds(),
            rng=random.Random(1),
            bus=self.bus,
            node=StandInNode(facts),
        )
        chosen = {**self.settings, **more}
        settings = RaftSettings(
            state_dir=self.directory,
            listen_remote_api=f"{self.name}:{self.port}",
            **chosen,  # type: ignore[arg-type]
        )
        self.app = RaftApp(settings, runtime)
        await self.app.start()
        door = Table()
        door.on_call(store.JOIN, self._join)
        await self.bus.listen_remote(self.name, self.port, door)
        self.serving = asyncio.get_running_loop().create_task(self.app.serve())

    async def _join(self, context: Context, request: store.JoinRequest) -> store.JoinReply:
        assert self.bus is not None
        connection = await self.bus.dial(LocalAddress(path=self.socket))
        try:
            return await connection.call(store.JOIN, request, meta=Meta(caller=context.peer))
        finally:
            await connection.close()

    async def stop(self) -> None:
        """Stop politely."""
        await self._end(polite=True)

    async def kill(self) -> None:
        """End without goodbye: what was not synced is not written, nothing is handed over."""
        await self._end(polite=False)

    async def _end(self, *, polite: bool) -> None:
        app, self.app = self.app, None
        if app is None:
            return
        for client in self.clients:
            await client.close()
        self.clients.clear()
        assert self.serving is not None
        assert self.bus is not None
        self.serving.cancel()
        with suppress(asyncio.CancelledError):
            await self.serving
        if polite:
            await app.stop()
        else:
            await app._tasks.close()
            assert app._recovered is not None
            app._recovered.log._close_segment()
            app._lock.release()
        await self.bus.close()

    @property
    def dial(self) -> Dial:
        assert self.bus is not None
        return local(self.bus, self.socket)

    def client(self) -> StoreClient:
        client = StoreClient(dial=self.dial, client_id=SystemIds().new("client"), clock=SystemClock())
        self.clients.append(client)
        return client

    def replica(self) -> Replica:
        replica = Replica(self.dial)
        self.clients.append(replica)
        return replica

    async def status(self) -> store.RaftStatus:
        return await self.client().status()


class Homes:
    """Several managers of one cluster."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.directory = directory
        self.network = MemoryNetwork()
        self.settings = settings
        self.all: dict[str, Home] = {}

    def add(self, name: str) -> Home:
        """A manager that knows those before it."""
        home = Home(
            name=name,
            port=100 * (len(self.all) + 1),
            directory=self.directory / name,
            network=self.network,
            known=tuple(home.peer for home in self.all.values()),
            settings=self.settings,
        )
        self.all[name] = home
        return home

    async def grow(self, *names: str) -> None:
        """Start managers one after the other and wait until each is a member."""
        for name in names:
            home = self.add(name)
            await home.start()
            await self.until(home, lambda status, name=name: _has(status, name))  # type: ignore[misc]

    async def until(self, home: Home, condition: Callable[[store.RaftStatus], bool]) -> store.RaftStatus:
        """Wait until a member's status is like this."""
        client = home.client()
        async with asyncio.timeout(20):
            async for status in client.follow_status():
                if status is not None and condition(status):
                    return status
        raise AssertionError("the status ended")

    async def leader(self) -> Home:
        """Wait until a running member leads and is ready."""
        running = [home for home in self.all.values() if home.app is not None]
        tasks = [asyncio.ensure_future(self.until(home, lambda status: status.ready)) for home in running]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        return self.all[done.pop().result().node_id]

    async def close(self) -> None:
        for home in self.all.values():
            await home.kill()


def _has(status: store.RaftStatus, name: str) -> bool:
    return any(member.node_id == name for member in status.members) and status.leader is not None


def run_homes(directory: Path, scenario: Callable[[Homes], Awaitable[None]], **settings: object) -> None:
    """Run a scenario and close everything it has started."""

    async def run() -> None:
        homes = Homes(directory, **settings)
        try:
            async with asyncio.timeout(50):
                await scenario(homes)
        finally:
            await homes.close()

    asyncio.run(run())
