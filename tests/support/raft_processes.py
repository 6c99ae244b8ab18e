"""Real raft processes over CURVE, for tests and the bench: this module stands in for their supervisor, ca and gateway.

    async with RaftProcesses(tmp_path) as cluster:
        await cluster.grow("a", "b", "c")
        leader = await cluster.leader()
        cluster.kill(leader)

One bus of the test's process serves every node: their supervisor.sock (facts and orders), and a door on each remote API
address that passes ``membership.join`` on to the node's own raft process, as the gateway does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from services.kit.bus.api import Context, Listener, LocalAddress, Meta
from services.kit.bus.identity import Identity, save_node, save_roots
from services.kit.bus.rpc import Table
from services.kit.bus.zmq import ZmqBus
from services.kit.messages import store, supervise
from services.kit.messages.method import Empty
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds
from services.kit.store.client import StoreClient
from services.kit.store.line import Dial, local
from services.kit.store.replica import Replica
from tests.support.pki import CLUSTER, Authority
from tests.support.ports import free_remote_api

ROOT = Path(__file__).parents[2]
READY_S = 20.0


@dataclass
class RaftNode:
    """One node: its directory, its identity, and its raft process while it runs."""

    name: str
    directory: Path
    remote_api: str
    identity: Identity
    known: tuple[ManagerPeer, ...]
    bus: ZmqBus
    module: str = "services.raft"
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    listeners: list[Listener] = field(default_factory=list)

    @property
    def peer(self) -> ManagerPeer:
        return ManagerPeer(node_id=NodeId(self.name), addr=self.remote_api, certificate=self.identity.certificate)

    @property
    def socket(self) -> str:
        return str(self.directory / "run" / "raft.sock")

    @property
    def dial(self) -> Dial:
        return local(self.bus, self.socket)

    async def open(self) -> None:
        """Be this node's supervisor and gateway."""
        (self.directory / "run").mkdir(parents=True, mode=0o700)
        save_roots(self.directory / "certificates", self.identity.roots)
        save_node(self.directory / "certificates", self.identity.key, self.identity.certificate)
        inside = Table(trusted=True)
        inside.on_feed(supervise.ORDERS, self._orders)
        inside.on_call(supervise.READY, self._ready)
        self.listeners.append(await self.bus.listen_local(str(self.directory / "run" / "supervisor.sock"), inside))
        door = Table()
        door.on_call(store.JOIN, self._join)
        host, port = self.remote_api.split(":")
        self.listeners.append(await self.bus.listen_remote(host, int(port), door))

    async def _orders(self, _context: Context, _request: supervise.Attach) -> AsyncIterator[supervise.Order]:
        facts = supervise.Facts(
            node_id=NodeId(self.name),
            cluster_id=ClusterId(CLUSTER),
            role=Role.MANAGER,
            certificates_dir=str(self.directory / "certificates"),
            identity_serial=1,
            remote_addr=self.remote_api,
            managers=(self.peer, *self.known),
        )
        yield supervise.Order(facts=facts)
        await asyncio.Event().wait()

    async def _ready(self, _context: Context, _report: supervise.ReadyReport) -> Empty:
        self.ready.set()
        return Empty()

    async def _join(self, context: Context, request: store.JoinRequest) -> store.JoinReply:
        connection = await self.bus.dial(LocalAddress(path=self.socket))
        try:
            return await connection.call(store.JOIN, request, meta=Meta(caller=context.peer))
        finally:
            await connection.close()

    async def start(self, **settings: object) -> None:
        """Start the process and wait until it serves."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SWARMBUS_")}
        environment |= {"SWARMBUS_STATE_DIR": str(self.directory), "SWARMBUS_LISTEN_REMOTE_API": self.remote_api}
        environment["PYTHONPATH"] = str(ROOT)
        environment |= {f"SWARMBUS_{name.upper()}": str(value) for name, value in settings.items()}
        self.ready.clear()
        with (self.directory / "raft.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", self.module, cwd=ROOT, env=environment, stderr=log
            )
        ready = asyncio.ensure_future(self.ready.wait())
        ended = asyncio.ensure_future(self.process.wait())
        await asyncio.wait((ready, ended), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        for each in (ready, ended):
            each.cancel()
        assert self.ready.is_set(), f"{self.name} does not serve:\n{self.log_tail()}"

    def log_tail(self) -> str:
        return "\n".join((self.directory / "raft.log").read_text().splitlines()[-30:])

    async def kill(self) -> None:
        """kill -9, and wait until the process is gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            process.send_signal(number)
        return await process.wait()


class RaftProcesses:
    """The nodes of one cluster."""

    def __init__(self, directory: Path, *, module: str = "services.raft", **settings: object) -> None:
        """``module`` is what the nodes run; the settings are those of their processes."""
        self.directory = directory
        self.settings = settings
        self._module = module
        self.nodes: dict[str, RaftNode] = {}
        self._authority = Authority()
        self._buses: list[ZmqBus] = []
        self._clients: list[StoreClient | Replica] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for node in self.nodes.values():
                sys.stderr.write(f"--- {node.name}\n{node.log_tail()}\n")
        for node in self.nodes.values():
            await node.kill()
        for client in self._clients:
            await client.close()
        for bus in self._buses:
            await bus.close()

    async def add(self, name: str) -> RaftNode:
        """A node that knows those before it; its process is not started."""
        identity = self._authority.manager(name)
        bus = ZmqBus(identity, clock=SystemClock(), process="stand-in")
        self._buses.append(bus)
        node = RaftNode(
            name=name,
            directory=self.directory / name,
            remote_api=free_remote_api(),
            identity=identity,
            known=tuple(node.peer for node in self.nodes.values()),
            bus=bus,
            module=self._module,
        )
        await node.open()
        self.nodes[name] = node
        return node

    async def grow(self, *names: str) -> None:
        """Start nodes one after the other and wait until each is a member."""
        for name in names:
            node = await self.add(name)
            await node.start(**self.settings)
            await self.until(node, lambda status, name=name: name in {m.node_id for m in status.members})  # type: ignore[misc]

    async def until(self, node: RaftNode, condition: Callable[[store.RaftStatus], bool]) -> store.RaftStatus:
        """Wait until a member's status is like this."""
        client = self.client(node)
        async with asyncio.timeout(READY_S):
            async for status in client.follow_status():
                if status is not None and condition(status):
                    return status
        raise AssertionError("the status ended")

    async def leader(self) -> RaftNode:
        """Wait until a running member leads and is ready."""
        running = [node for node in self.nodes.values() if node.process is not None]
        tasks = [asyncio.ensure_future(self.until(node, lambda status: status.ready)) for node in running]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        return self.nodes[done.pop().result().node_id]

    def client(self, node: RaftNode) -> StoreClient:
        client = StoreClient(dial=node.dial, client_id=SystemIds().new("client"), clock=SystemClock())
        self._clients.append(client)
        return client

    async def state(self, node: RaftNode, version: int) -> Replica:
        """Return a replica of a member's state once it is at a version."""
        replica = Replica(node.dial)
        self._clients.append(replica)
        async with asyncio.timeout(READY_S):
            async for _ in replica.follow():
                if replica.version >= version:
                    return replica
        raise AssertionError("the watch ended")
