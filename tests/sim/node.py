"""One simulated machine: its supervisor's part, its processes, its clock and its disk.

Made by the world. The supervisor here does what the real one does for a node that has its identity: starts what belongs to the role,
starts again what has ended, spreads what the agent learns of the managers, fetches a certificate of another role when the swarm wants one
and starts or stops the manager half with it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from services.agent.config import AgentSettings
from services.agent.shell.app import AgentApp
from services.ca.config import CaSettings
from services.ca.shell.app import CaApp
from services.dispatcher.config import DispatcherSettings
from services.dispatcher.shell.app import DispatcherApp
from services.gateway.config import GatewaySettings
from services.gateway.shell.app import GatewayApp
from services.kit.bus.api import Caller, RemoteAddress
from services.kit.bus.memory import MemoryBus
from services.kit.bus.ports import parse_address
from services.kit.errors import NotFound, PermissionDenied, SwarmError
from services.kit.lifecycle.app import App, Runtime
from services.kit.messages import identity
from services.kit.messages.method import MANAGER, WORKER
from services.kit.messages.supervise import Facts
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.changes import Changes
from services.kit.runtime.ids import SeededIds
from services.raft.config import RaftSettings
from services.raft.shell.app import RaftApp
from tests.sim.disk import SimDisk
from tests.sim.founding import CLUSTER, SimSigner
from tests.sim.loop import VirtualClock
from tests.sim.plane import SimPlane
from tests.sim.process import SimProcess

if TYPE_CHECKING:
    from tests.sim.world import World

NANO = 1_000_000_000
CPUS = 4
MEMORY_BYTES = 4 << 30
PROCESSES = {
    Role.MANAGER: ("raft", "ca", "dispatcher", "gateway", "agent"),
    Role.WORKER: ("gateway", "agent"),
}
MANAGER_HALF = ("dispatcher", "ca", "raft")
"""In the order in which they stop when a manager becomes a worker."""
RENEW_AGAIN_S = 0.5
RESTART_FIRST_S = 0.1
RESTART_MAX_S = 2.0


class SimNode:
    """See the module."""

    def __init__(self, world: World, name: str, number: int, role: Role, directory: Path) -> None:
        self.world = world
        self.name = name
        self.role = role
        self.directory = directory
        self.remote_addr = f"{name}:{1000 + 10 * number}"
        seed = f"{world.seed}/{name}"
        self.rng = random.Random(f"{seed}/rng")
        self.ids = SeededIds(random.Random(f"{seed}/ids").getrandbits(48))
        self.clock = VirtualClock(world.loop, rate=1.0)
        self.disk = SimDisk(random.Random(f"{seed}/disk"))
        self.public_key = self.ids.secret("key", 32)
        self.node_id = NodeId("")
        self.certificate = b""
        self.managers: tuple[ManagerPeer, ...] = ()
        self.facts_changed = Changes()
        self.processes: dict[str, SimProcess] = {}
        self.up = False
        self.removed = False
        self._is_stopping = False
        self._starts_next = False
        self.runs = 0
        self.sends_to: frozenset[TaskId] = frozenset()
        """Tasks to which this node's data plane sends new connections."""
        self._facts: Facts | None = None
        self._serial = 1
        self._wanted: Role | None = None
        """The role that the swarm observes; another one than ours is fetched with a fresh certificate."""
        self._is_renewing = False
        self._failures: dict[str, int] = {}

    # -- identity

    @property
    def caller(self) -> Caller:
        """Who this node is on the network."""
        unit = MANAGER if self.role is Role.MANAGER else WORKER
        return Caller(node_id=self.node_id, role=unit, cluster_id=CLUSTER, public_key=self.public_key)

    @property
    def facts(self) -> Facts:
        """What the supervisor tells its children."""
        assert self._facts is not None, "the node has no identity yet"
        return self._facts

    @property
    def peer(self) -> ManagerPeer:
        """This manager as others know it."""
        return ManagerPeer(node_id=self.node_id, addr=self.remote_addr, certificate=self.certificate)

    def take_identity(self, node_id: NodeId, certificate: bytes, managers: tuple[ManagerPeer, ...]) -> None:
        """Be somebody."""
        self.node_id = node_id
        self.certificate = certificate
        self.managers = managers
        self._tell()

    def learn_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Keep a new list of managers and tell the processes."""
        if managers and managers != self.managers:
            self.managers = managers
            self._tell()

    def hear_role(self, role: Role | None) -> None:
        """Take what the swarm says of this node."""
        self._wanted = role or self._wanted
        if self._wanted not in {None, self.role} and not self._is_renewing:
            self._is_renewing = True
            self.world.spawn(self._renew())

    async def _renew(self) -> None:
        """Ask one manager after the other for a certificate of the wanted role, until there is one or the swarm does not know us."""
        try:
            while self._wanted not in {None, self.role} and not self.removed:
                for peer in self.facts.managers:
                    if self.up and await self._ask_for_certificate(peer):
                        break
                await asyncio.sleep(RENEW_AGAIN_S)
        finally:
            self._is_renewing = False

    async def _ask_for_certificate(self, peer: ManagerPeer) -> bool:
        bus = MemoryBus(self.world.network, self.caller, host=self.name, process="supervisor")
        host, port = parse_address(peer.addr)
        try:
            connection = await bus.dial(RemoteAddress(host=host, port=port, certificate=peer.certificate))
            issued = await connection.call(identity.RENEW, identity.RenewRequest(remote_addr=self.remote_addr))
        except (NotFound, PermissionDenied) as error:
            self.world.trace.note(self.name, f"is given no certificate any more: {error}")
            if "not a manager" not in str(error):
                self.leave()
            return False
        except SwarmError as error:
            self.world.trace.note(self.name, f"certificate not renewed: {error}")
            return False
        finally:
            await bus.close()
        self._serial += 1
        self.certificate = issued.certificate
        self.world.trace.note(self.name, f"has a certificate as {issued.role.value}")
        await self._become(issued.role)
        return True

    async def _become(self, role: Role) -> None:
        before, self.role = self.role, role
        for process in self._living():
            process.bus.identity = self.caller
        self._tell()
        if role is before:
            return
        if role is Role.WORKER:
            for name in MANAGER_HALF:
                if name in self.processes:
                    await self.processes.pop(name).stop()
            self._clear_store()
        elif self.up:
            for name in reversed(MANAGER_HALF):
                self.start(name)

    def _clear_store(self) -> None:
        """A node that is no manager any more has no vote to remember."""
        self.disk.kill()
        self.disk.synced.clear()
        self.disk.pending.clear()
        shutil.rmtree(self.directory / "raft", ignore_errors=True)

    def _tell(self) -> None:
        mine = (self.peer,) if self.role is Role.MANAGER else ()
        others = tuple(peer for peer in self.managers if peer.node_id != self.node_id)
        facts = Facts(
            node_id=self.node_id,
            cluster_id=CLUSTER,
            role=self.role,
            certificates_dir=str(self.directory / "certificates"),
            identity_serial=self._serial,
            remote_addr=self.remote_addr,
            managers=mine + others,
        )
        self._facts = facts
        self.facts_changed.announce()

    # -- life

    def power_on(self) -> None:
        """Start the machine and what belongs to its role, once it has stopped."""
        if self.up or self.removed or self._facts is None:
            return
        if self._is_stopping:
            self._starts_next = True
            return
        self.up = True
        self.world.trace.note(self.name, "starts")
        if self.role is Role.WORKER:
            self._clear_store()  # a demotion may have been cut short
        for name in PROCESSES[self.role]:
            self.start(name)

    def power_off(self) -> None:
        """Lose power: every process is gone at once, and so is what was not synced."""
        if not self.up:
            return
        self.up = False
        self.world.trace.note(self.name, "loses power")
        for process in self._living():
            process.kill(silently=True)
        self.disk.lose_power()

    def leave(self) -> None:
        """The swarm does not know this node any more: stop for good."""
        self.removed = True
        self.power_off()

    async def shut_down(self) -> None:
        """Stop politely, in the order in which a supervisor stops."""
        if not self.up:
            return
        self.up = False
        self._is_stopping, self._starts_next = True, False
        for process in reversed(self._living()):
            await process.stop()
        self.disk.kill()
        self._is_stopping = False
        if self._starts_next:
            self.power_on()

    def start(self, name: str) -> None:
        """Start one process."""
        self.runs += 1
        process = self.processes[name] = SimProcess(self, name, partial(self._build, name))
        process.start()

    def kill(self, name: str) -> None:
        """Kill one process; its supervisor starts it again."""
        process = self.processes.get(name)
        if process is None or process.dead:
            return
        self.world.trace.note(str(process), "killed")
        if name == "raft":
            self.disk.kill()
        process.kill()
        self.ended(process)

    def ended(self, process: SimProcess) -> None:
        """A process is gone: start it again after a while."""
        if process.name == "raft":
            self.disk.kill()
        failures = self._failures.get(process.name, 0) + 1
        self._failures[process.name] = failures
        if process.ready:
            self._failures[process.name] = 0
        delay_s = min(RESTART_MAX_S, RESTART_FIRST_S * 2 ** min(failures, 6))
        self.world.loop.call_later(delay_s, self._start_again, process)

    def _start_again(self, process: SimProcess) -> None:
        if self.up and not self.removed and self.processes.get(process.name) is process:
            self.start(process.name)

    def halt(self, name: str = "") -> None:
        """Stop processes where they are, as SIGSTOP does; all of them, or one."""
        for process in self._living():
            if name in ("", process.name):
                self.world.loop.halt(process)

    def go_on(self) -> None:
        """Let halted processes run."""
        for process in self._living():
            if process.halted:
                self.world.loop.go_on(process)

    def _living(self) -> list[SimProcess]:
        return [process for process in self.processes.values() if not process.dead]

    def app(self, name: str) -> object | None:
        """Return the app of a process that runs and serves."""
        process = self.processes.get(name)
        return process.app if process is not None and process.ready and not process.dead else None

    async def wait_ready(self, name: str) -> None:
        """Wait until a process serves."""
        while self.app(name) is None:
            await self.processes[name].changed.wait()

    # -- building

    def _build(self, name: str, runtime: Runtime) -> App:
        state_dir = self.directory
        match name:
            case "raft":
                raft = RaftSettings(state_dir=state_dir, listen_remote_api=self.remote_addr)
                return RaftApp(raft, runtime, disk=self.disk.mount())
            case "ca":
                return CaApp(CaSettings(state_dir=state_dir), runtime, make_signer=SimSigner)
            case "dispatcher":
                return DispatcherApp(DispatcherSettings(state_dir=state_dir), runtime)
            case "gateway":
                gateway = GatewaySettings(
                    state_dir=state_dir, listen_remote_api=self.remote_addr, claim_well_known_socket=False
                )
                return GatewayApp(gateway, runtime, make_plane=partial(SimPlane, self))
            case "agent":
                agent = AgentSettings(
                    state_dir=state_dir,
                    hostname=self.name,
                    drivers=("fake",),
                    nano_cpus=CPUS * NANO,
                    memory_bytes=MEMORY_BYTES,
                )
                return AgentApp(agent, runtime)
            case other:
                raise AssertionError(f"no process is called {other}")
