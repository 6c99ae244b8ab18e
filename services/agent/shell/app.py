"""The agent as an app: opens the database, loads the drivers, adopts the tasks, then keeps a session. Made by ``__main__``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.agent.config import AgentSettings
from services.agent.core.bundle import NodeFacts
from services.agent.core.credentials import Credentials
from services.agent.core.describe import describe_node, parse_generic, platform_of
from services.agent.core.resources import parse_devices
from services.agent.drivers.api import DriverContext
from services.agent.drivers.task_ports import PortRange
from services.agent.shell.database import TaskDatabase
from services.agent.shell.drivers import Drivers
from services.agent.shell.health import Health
from services.agent.shell.machine import read_machine
from services.agent.shell.outbox import Outbox
from services.agent.shell.session import Session
from services.agent.shell.tasks import Tasks
from services.agent.shell.volumes import Volumes
from services.kit.bus.ports import parse_address
from services.kit.bus.session import ManagerLink
from services.kit.lifecycle.app import ReadyLater, Runtime
from services.kit.model.ids import VolumeId
from services.kit.model.objects import NodeDescription
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - read, never bound


class AgentApp(ReadyLater):
    """The agent. It is ready when its first session is registered, and says so itself."""

    def __init__(self, settings: AgentSettings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        self._owner = TaskOwner("agent")
        outbox = Outbox()
        self._generic = parse_generic(settings.generic_resources)
        self._link = ManagerLink(runtime.bus, runtime.node.facts.managers, rng=runtime.rng)
        self._credentials = Credentials()
        self._drivers = Drivers(self._driver_context())
        self._database = TaskDatabase(settings.state_dir / "worker")
        self._volumes = Volumes(
            clock=runtime.clock,
            owner=self._owner,
            drivers_dir=settings.volume_drivers,
            directory=settings.state_dir / "worker" / "cluster-volumes",
            node_id=runtime.node.facts.node_id,
            used=self._used_volumes,
            secrets=self._secret_data,
        )
        self._tasks = Tasks(
            clock=runtime.clock,
            owner=self._owner,
            drivers=self._drivers,
            database=self._database,
            node=self._node_facts(),
            outbox=outbox,
            health=Health(runtime.clock, self._address()),
            volume_path=self._volumes.path,
            on_forget=self._volumes.look,
        )
        self._session = Session(
            runtime=runtime,
            link=self._link,
            tasks=self._tasks,
            volumes=self._volumes,
            outbox=outbox,
            credentials=self._credentials,
            describe=self.describe_node,
            addr=self._address(),
        )

    @property
    def tasks(self) -> Tasks:
        """The tasks of this node."""
        return self._tasks

    def describe_node(self) -> NodeDescription:
        """Say what this node is and can do, as of now."""
        machine = read_machine(self._settings)
        return describe_node(machine, self._generic, self._drivers.facts(), self._volumes.drivers)

    async def start(self) -> None:
        """Load the drivers and adopt every task that was here before."""
        await self._drivers.load_named(self._settings.drivers)
        await self._volumes.look_at_drivers()
        self._volumes.adopt()
        await self._tasks.adopt(self._database.load())

    async def serve(self) -> None:
        """Keep a session with the leader and the tasks running."""
        work = [
            self._owner.spawn("session", self._session.run()),
            self._owner.spawn("facts", self._follow_facts()),
            self._owner.spawn("drivers", self._follow_drivers()),
            self._owner.spawn("volumes", self._volumes.run()),
            self._owner.spawn("describe", self._look_at_node()),
        ]
        try:
            raise await self._owner.failed()
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)

    async def stop(self) -> None:
        """Leave the session, keep the statuses, let go of the drivers; tasks run on."""
        await self._tasks.close()
        await self._drivers.unload()
        await self._owner.close()
        await self._link.close()
        self._database.close()

    async def _follow_facts(self) -> None:
        """Register anew in another role, or after the certificate had run out; a mere renewal costs no session."""
        before = self._runtime.node.facts
        async for facts in self._runtime.node.changes():
            self._link.set_managers(facts.managers)
            had_run_out = 0.0 < before.not_after < self._runtime.clock.wall() and facts.not_after != before.not_after
            if facts.role is not before.role or had_run_out:
                self._session.restart("the node has a new certificate")
            before = facts

    async def _follow_drivers(self) -> None:
        seen = 0
        while True:
            seen = await self._drivers.next_change(seen)
            await self._tasks.look_for_orphans()
            self._session.look_again()

    async def _look_at_node(self) -> None:
        """Notice changes of the machine that nothing announces."""
        while True:
            await asyncio.sleep(self._settings.describe_interval_s)
            await self._volumes.look_at_drivers()
            self._session.look_again()

    def _used_volumes(self) -> set[VolumeId]:
        return self._tasks.used_volumes()

    def _secret_data(self) -> Mapping[str, bytes]:
        return self._tasks.secret_data()

    def _node_facts(self) -> NodeFacts:
        machine = read_machine(self._settings)
        return NodeFacts(
            id=self._runtime.node.facts.node_id,
            hostname=machine.hostname,
            platform=platform_of(machine),
            devices=parse_devices(self._settings.resource_devices),
        )

    def _address(self) -> str:
        """Return the host under which other nodes reach this one, empty when the dispatcher must see for itself."""
        addr = self._runtime.node.facts.remote_addr
        host = parse_address(addr).host if addr else ""
        return "" if host in EVERYWHERE else host

    def _driver_context(self) -> DriverContext:
        facts = self._runtime.node.facts
        return DriverContext(
            node_id=facts.node_id,
            cluster_id=facts.cluster_id,
            hostname=read_machine(self._settings).hostname,
            addr=self._address(),
            state_dir=self._settings.state_dir,
            run_dir=self._settings.run_dir,
            docker_socket=self._settings.docker_socket,
            ports=PortRange(facts.node_id, self._address()),
            credentials=self._credentials,
            clock=self._runtime.clock,
            log=Log("driver"),
            tasks=self._owner,
        )
