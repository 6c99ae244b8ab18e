"""A real gateway process to test with: a supervisor that gives it orders, a dispatcher that serves routes, and its certificates."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.kit.bus.api import Connection, Context, LocalAddress
from services.kit.bus.identity import save_node, save_roots
from services.kit.bus.rpc import Table
from services.kit.bus.zmq import ZmqBus
from services.kit.messages import routes, supervise
from services.kit.messages.method import Empty
from services.kit.messages.routes import AckRoutes, Route, RouteTable
from services.kit.messages.supervise import Facts, Order
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.clock import SystemClock
from tests.support.pki import CLUSTER, Authority
from tests.support.plane_home import gone, is_zombie
from tests.support.ports import free_remote_api
from tests.support.running import eventually

SOURCE = Path(__file__).parents[2]


class GatewayHome:
    """The node around a gateway process."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.run_dir = state_dir / "run"
        self.control_socket = str(state_dir / "control.sock")
        self.remote_addr = free_remote_api()
        self.acks: list[AckRoutes] = []
        self.watchers: list[Context] = []
        self.ready = 0
        self.process: asyncio.subprocess.Process | None = None
        self._tables: list[RouteTable] = []
        self._wake = asyncio.Event()
        self._drain = asyncio.Event()
        self._bus = ZmqBus(clock=SystemClock(), process="test")
        self._facts: Facts

    async def open(self) -> None:
        """Make the certificates; listen as supervisor and as dispatcher."""
        self.run_dir.mkdir(parents=True)
        certificates = self.state_dir / "certificates"
        authority = Authority()
        me = authority.manager("m1")
        save_roots(certificates, me.roots)
        save_node(certificates, me.key, me.certificate)
        peer = ManagerPeer(node_id=NodeId("m1"), addr=self.remote_addr, certificate=me.certificate)
        self._facts = Facts(
            node_id=NodeId("m1"),
            cluster_id=ClusterId(CLUSTER),
            role=Role.MANAGER,
            certificates_dir=str(certificates),
            identity_serial=1,
            remote_addr=self.remote_addr,
            managers=(peer,),
        )
        supervisor = Table(trusted=True)
        supervisor.on_feed(supervise.ORDERS, self._orders)
        supervisor.on_call(supervise.READY, self._on_ready)
        await self._bus.listen_local(str(self.run_dir / "supervisor.sock"), supervisor)
        dispatcher = Table(trusted=True)
        dispatcher.on_feed(routes.WATCH, self._watch)
        dispatcher.on_call(routes.ACK, self._ack)
        await self._bus.listen_local(str(self.run_dir / "dispatcher.sock"), dispatcher)

    async def close(self) -> None:
        """Leave nothing running."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self._bus.close()
        report = self.run_dir / "plane.log"
        assert not report.exists() or not report.read_text(), report.read_text()

    @property
    def environment(self) -> dict[str, str]:
        """What the supervisor tells a gateway."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SOURCE),
            "SWARMBUS_STATE_DIR": str(self.state_dir),
            "SWARMBUS_LISTEN_REMOTE_API": self.remote_addr,
            "SWARMBUS_CLAIM_WELL_KNOWN_SOCKET": "false",
            "SWARMBUS_PLANE_ORPHAN_S": "20",
            "SWARMBUS_PLANE_DRAIN_S": "1",
        }

    async def start(self, *wrapper: str) -> None:
        """Start a gateway and wait until it is ready."""
        expected = self.ready + 1
        self.process = await asyncio.create_subprocess_exec(
            *wrapper, sys.executable, "-P", "-m", "services.gateway", cwd=self.run_dir, env=self.environment
        )
        await eventually(lambda: self.ready >= expected)

    async def crash(self) -> None:
        """Kill it as no process expects."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def drain(self) -> int:
        """Have it stop politely and return its exit code."""
        assert self.process is not None
        self._drain.set()
        return await self.process.wait()

    def show(self, table: RouteTable) -> None:
        """Send this to every watching gateway, and to each that comes after, until the next full one."""
        if table.full:
            self._tables.clear()
        self._tables.append(table)
        self._wake.set()
        self._wake = asyncio.Event()

    async def acted_on(self, epoch: int) -> None:
        """Wait until the gateway has confirmed an epoch."""
        await eventually(lambda: any(ack.epoch == epoch for ack in self.acks))

    async def user(self) -> Connection:
        """Return a connection to the control socket."""
        return await self._bus.dial(LocalAddress(path=self.control_socket))

    async def _orders(self, context: Context, request: supervise.Attach) -> AsyncIterator[Order]:
        yield Order(facts=self._facts)
        await self._drain.wait()
        yield Order(drain=True)

    async def _on_ready(self, context: Context, request: supervise.ReadyReport) -> Empty:
        self.ready += 1
        return Empty()

    async def _watch(self, context: Context, request: routes.WatchRoutes) -> AsyncIterator[RouteTable]:
        self.watchers.append(context)
        sent = 0
        while True:
            if sent < len(self._tables):
                sent += 1
                yield self._tables[sent - 1]
            else:
                await self._wake.wait()

    async def _ack(self, context: Context, request: AckRoutes) -> Empty:
        self.acks.append(request)
        return Empty()


@asynccontextmanager
async def gateway(state_dir: Path) -> AsyncIterator[GatewayHome]:
    """Have a node with a running gateway; no process is left at the end, its data plane included."""
    home = GatewayHome(state_dir)
    await home.open()
    planes: set[int] = set()
    try:
        await home.start()
        planes |= plane_pids(home.run_dir)
        yield home
    finally:
        planes |= plane_pids(home.run_dir)
        await home.close()
        for pid in planes:
            if not is_zombie(pid):
                os.kill(pid, signal.SIGTERM)
                await gone(pid)


def plane_pids(run_dir: Path) -> set[int]:
    """Return the processes of the data plane that has its door in this directory."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"services.gateway.plane" in line and str(run_dir / "plane.sock").encode() in line:
                found.add(int(entry.name))
    return found


def full(epoch: int, *found: Route) -> RouteTable:
    """Return a full table."""
    return RouteTable(epoch=epoch, full=True, routes=found)
