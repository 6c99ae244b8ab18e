"""The gateway process: doors for its node's role, the ingress on every node, and what stays when it goes.

What must stay true: a crash of this process costs no connection of a published port; when the node stops the data plane stops with it;
when only the supervisor is lost the data plane goes on, as the tasks do.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import Callable

from services.gateway.config import GatewaySettings
from services.gateway.core.rights import Door
from services.gateway.shell import well_known
from services.gateway.shell.discovery import DiscoveryServer
from services.gateway.shell.dns import DnsServer
from services.gateway.shell.doors import refuse_all
from services.gateway.shell.ingress import Ingress, KernelWork, Plane
from services.gateway.shell.keeper import Confirmed, PlaneKeeper
from services.gateway.shell.manager import ManagerHalf
from services.gateway.shell.mesh_certificate import MeshCertificate
from services.kit.bus.api import Context, Listener
from services.kit.bus.ports import parse_address
from services.kit.bus.rpc import Table
from services.kit.bus.session import ManagerLink
from services.kit.lifecycle.app import Runtime
from services.kit.messages import control, routes
from services.kit.messages.control import VersionReply
from services.kit.messages.method import Empty
from services.kit.messages.registry import PROTOCOL
from services.kit.messages.routes import IngressStatus, Route
from services.kit.model.states import Role
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner


class GatewayApp:
    """See the module."""

    def __init__(
        self, settings: GatewaySettings, runtime: Runtime, *, make_plane: Callable[[Confirmed], Plane] | None = None
    ) -> None:
        """``make_plane`` is for those who run without the processes of a data plane."""
        self._settings = settings
        self._runtime = runtime
        self._parent = os.getppid()
        self._owner = TaskOwner("gateway")
        self._dns = DnsServer(self._routes, runtime.rng)
        self._ingress = Ingress(self._on_table, self._mesh_port, self._kernel_work)
        self._mesh: MeshCertificate | None = None
        self._discovery = DiscoveryServer(self._routes, self._ingress.status)
        self._keeper = (make_plane or self._keep_plane)(self._ingress.confirmed)
        self._ingress.use(self._keeper)
        self._link = ManagerLink(runtime.bus, runtime.node.facts.managers, rng=runtime.rng)
        self._role: Role | None = None
        self._manager: ManagerHalf | None = None
        self._local: list[Listener] = []
        self._log = Log("gateway")

    def _keep_plane(self, confirmed: Confirmed) -> Plane:
        settings, runtime = self._settings, self._runtime
        facts = runtime.node.facts
        keeper = PlaneKeeper(
            settings.run_dir,
            settings.ingress_host,
            workers=settings.workers,
            orphan_s=settings.plane_orphan_s,
            clock=runtime.clock,
            confirmed=confirmed,
            node_id=facts.node_id,
            mesh_port=settings.mesh_port,
        )
        self._mesh = MeshCertificate(settings.run_dir, facts.cluster_id, runtime.clock, keeper.become)
        return keeper

    def _routes(self) -> list[Route]:
        return list(self._ingress.book.routes.values())

    def _mesh_port(self) -> int:
        return self._keeper.mesh_port if isinstance(self._keeper, PlaneKeeper) else 0

    def _kernel_work(self) -> KernelWork:
        if not isinstance(self._keeper, PlaneKeeper):
            return KernelWork()
        return KernelWork(self._keeper.kernel.ports, self._keeper.kernel.failure)

    async def start(self) -> None:
        """Open the doors and have a data plane."""
        plane = self._owner.spawn("plane", self._keeper.start())
        await self._open_doors(self._runtime.node.facts.role)
        await plane
        if self._settings.listen_discovery:
            await self._discovery.open(*parse_address(self._settings.listen_discovery, path="listen-discovery"))
        if self._settings.listen_dns:
            await self._dns.open(*parse_address(self._settings.listen_dns, path="listen-dns"))
        self._owner.spawn("ingress", self._ingress.run(self._link))
        self._owner.spawn("facts", self._follow_facts())
        if self._mesh is not None:
            self._owner.spawn("mesh", self._mesh.keep(self._link))

    async def serve(self) -> None:
        """Run until cancelled; raises what breaks any part."""
        failures = [
            self._owner.spawn("own-failure", self._owner.failed()),
            self._owner.spawn("plane-failure", self._keeper.failed()),
        ]
        done, _ = await asyncio.wait(failures, return_when=asyncio.FIRST_COMPLETED)
        raise done.pop().result()

    async def stop(self) -> None:
        """Close the doors; take the data plane along unless only the supervisor was lost."""
        await self._owner.close()
        await self._discovery.close()
        await self._dns.close()
        await self._link.close()
        await self._close_doors()
        if os.getppid() == self._parent:
            await self._keeper.drain(self._settings.plane_drain_s)
        else:
            self._log.info("data plane left running", orphan_s=self._settings.plane_orphan_s)
            await self._keeper.detach()

    async def _follow_facts(self) -> None:
        serial = self._runtime.node.facts.identity_serial
        async for facts in self._runtime.node.changes():
            self._link.set_managers(facts.managers)
            if self._mesh is not None and facts.identity_serial != serial:
                self._mesh.renew()
            serial = facts.identity_serial
            if facts.role is not self._role:
                await self._close_doors()
                await self._open_doors(facts.role)
            elif self._manager is not None:
                self._manager.facts_changed()

    async def _open_doors(self, role: Role) -> None:
        """Open what a node of this role answers at: users last, because they may ask anything at once."""
        self._role = role
        for_users = Table(trusted=True)
        for_users.on_call(routes.STATUS, self._status)
        if role is Role.MANAGER:
            manager = self._manager = ManagerHalf(self._settings, self._runtime)
            manager.revoke(self._ingress.book.revoked)
            for_nodes = Table()
            manager.admission(Door.REMOTE).fill(for_nodes)
            for_nodes.on_call(control.VERSION, self._version)
            for_nodes.on_call(routes.STATUS, self._status)
            await manager.open(for_nodes)
            self._owner.spawn("manager-failure", _fail_with(manager))
            manager.admission(Door.LOCAL).fill(for_users)
            for_users.on_call(control.VERSION, self._version)
        else:
            refuse_all(for_users, self._manager_addresses)
        bus = self._runtime.bus
        self._local = [
            await bus.listen_local(path, for_users)
            for path in (self._settings.socket("gateway"), self._settings.control_socket)
        ]
        if self._settings.claim_well_known_socket:
            well_known.claim(self._settings.control_socket)

    async def _close_doors(self) -> None:
        well_known.release(self._settings.control_socket)
        for listener in self._local:
            await listener.close()
        self._local = []
        if self._manager is not None:
            await self._manager.close()
            self._manager = None

    def _on_table(self, keys: frozenset[bytes]) -> None:
        """The table changed; ``keys`` are those of removed nodes."""
        self._dns.refresh()
        if self._manager is not None:
            self._manager.revoke(keys)

    def _manager_addresses(self) -> tuple[str, ...]:
        return tuple(manager.addr for manager in self._runtime.node.facts.managers)

    async def _status(self, context: Context, request: Empty) -> IngressStatus:
        return await self._ingress.status()

    async def _version(self, context: Context, request: Empty) -> VersionReply:
        own, now = self._runtime.node.facts.node_id, self._runtime.clock.wall()
        return VersionReply(version=_version(), protocol=PROTOCOL, node_id=own, at=now)


async def _fail_with(manager: ManagerHalf) -> None:
    raise await manager.failed()


def _version() -> str:
    """Return the installed version; a tree that was never installed has none."""
    try:
        return importlib.metadata.version("swarmbus")
    except importlib.metadata.PackageNotFoundError:
        return "0"
