"""Users: they create, change, scale and remove services and jobs, rotate secrets, change the nodes (``members``), and read and write registers;
what they are told is kept.

The histories of registers (``support/registers.py``) are judged for linearizability. A run's users are as lively as its seed says.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from services.client.client import Client
from services.client.line import ControlLine
from services.kit.bus.memory import MemoryBus
from services.kit.errors import DeadlineExceeded, SwarmError, Unavailable
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Secret
from services.kit.model.specs import (
    Annotations,
    OrchestrationConfig,
    RaftConfig,
    SecretSpec,
    ServiceSpec,
)
from services.kit.model.states import Availability
from services.kit.runtime.ids import SeededIds
from tests.sim import members
from tests.sim.specs import draw_service
from tests.support.registers import Registers

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

REGISTERS = 2
SERVICES_MAX = 6
CALL_TIMEOUT_S = 6.0
SECRETS = 2


@dataclass(slots=True)
class Acknowledged:
    """What a user was told that it is done, by service name."""

    created: dict[str, ServiceId] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    maybe_removed: set[str] = field(default_factory=set)


class Workload:
    """All users of a run."""

    def __init__(self, world: World, *, users: int) -> None:
        self.world = world
        self._rng = random.Random(f"{world.seed}/users")
        self._pause_s = self._rng.choice((0.1, 0.4, 1.0))
        self._users = users
        self._names = 0
        self._services: dict[str, ServiceId] = {}
        self._secrets: list[Secret] = []
        self.acknowledged = Acknowledged()
        self.registers = Registers(REGISTERS, world.loop.time)
        self.done: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self._ids = SeededIds(random.Random(f"{world.seed}/users/ids").getrandbits(48))

    # -- life

    async def prepare(self) -> None:
        """Make the registers and set the cluster up, before anything goes wrong."""
        async with self.client(self.world.managers[0]) as client:
            for number in range(SECRETS):
                spec = SecretSpec(annotations=Annotations(name=f"secret{number}"), data=b"first")
                self._secrets.append(await client.secrets.create(spec))
            for key in self.registers.keys:
                await client.services.create(self.registers.spec(key))
            interval = self._rng.choice((20, 60, 10_000))
            raft = RaftConfig(snapshot_interval=interval, log_entries_for_slow_followers=self._rng.choice((0, 5, 500)))
            orchestration = OrchestrationConfig(task_history_retention_limit=self._rng.choice((1, 5)))
            await client.clusters.update("default", lambda spec: replace(spec, raft=raft, orchestration=orchestration))

    async def run(self) -> None:
        """Let every user act until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._users):
                group.create_task(self._user(number), name=f"user {number}")

    async def _user(self, number: int) -> None:
        rng = random.Random(f"{self.world.seed}/user {number}")
        while True:
            await asyncio.sleep(rng.expovariate(1 / self._pause_s))
            name, act = rng.choices(ACTS, weights=[weight for _, _, weight in ACTS])[0][:2]
            node = rng.choice(self.world.managers)
            try:
                await act(self, rng, node)
                self.done[name] = self.done.get(name, 0) + 1
            except SwarmError as error:
                self.failed[name] = self.failed.get(name, 0) + 1
                self.world.trace.note(f"user {number}", f"{name} at {node.name}: {type(error).__name__}: {error}")

    def client(self, node: SimNode) -> Client:
        """Return a client of a manager."""
        bus = MemoryBus(self.world.network, host=node.name, process="user")
        return Client(self._socket(node), timeout_s=CALL_TIMEOUT_S, bus=bus, clock=node.clock, ids=self._ids)

    def line(self, node: SimNode) -> ControlLine:
        """Return a line to a manager's control socket."""
        bus = MemoryBus(self.world.network, host=node.name, process="user")
        return ControlLine(bus, self._socket(node), timeout_s=CALL_TIMEOUT_S, clock=node.clock, ids=self._ids)

    def _socket(self, node: SimNode) -> str:
        return str(node.directory / "control.sock")

    # -- what users do

    async def create(self, rng: random.Random, node: SimNode) -> None:
        """Create a service."""
        if len(self._services) >= SERVICES_MAX:
            await self.remove(rng, node)
            return
        self._names += 1
        name = f"s{self._names}"
        spec = draw_service(name, rng, self._secrets)
        self._services[name] = ServiceId("")
        try:
            async with self.client(node) as client:
                service = await client.services.create(spec)
        except (Unavailable, DeadlineExceeded):
            raise
        except SwarmError:
            self._services.pop(name, None)
            raise
        self._services[name] = service.id
        self.acknowledged.created[name] = service.id
        self.world.trace.note("user", f"created {name} {service.id}")

    async def scale(self, rng: random.Random, node: SimNode) -> None:
        """Change the number of a service's tasks."""
        name = self._some_service(rng)
        if name:
            async with self.client(node) as client:
                await client.services.scale(name, rng.randint(0, 6))

    async def update(self, rng: random.Random, node: SimNode) -> None:
        """Roll a new template out."""
        name = self._some_service(rng)
        if name:
            stamp = rng.randrange(1 << 30)

            def changed(spec: ServiceSpec) -> ServiceSpec:
                container = replace(spec.task.container, env=(f"STAMP={stamp}",))
                return replace(spec, task=replace(spec.task, container=container))

            async with self.client(node) as client:
                await client.services.update(name, changed)

    async def rollback(self, rng: random.Random, node: SimNode) -> None:
        """Go back to the template before."""
        name = self._some_service(rng)
        if name:
            async with self.client(node) as client:
                await client.services.rollback(name)

    async def remove(self, rng: random.Random, node: SimNode) -> None:
        """Remove a service."""
        name = self._some_service(rng)
        if name:
            self.acknowledged.maybe_removed.add(name)
            async with self.client(node) as client:
                await client.services.remove(name)
            self._services.pop(name, None)
            self.acknowledged.removed.add(name)
            self.world.trace.note("user", f"removed {name}")

    async def rotate(self, rng: random.Random, node: SimNode) -> None:
        """Give a secret a new version; the services that use it are rolled over."""
        async with self.client(node) as client:
            rotation = await client.secrets.rotate(f"secret{rng.randrange(SECRETS)}", str(rng.random()).encode())
        if rotation.secret is not None:
            self._secrets.append(rotation.secret)

    async def look(self, rng: random.Random, node: SimNode) -> None:
        """Look at everything."""
        async with self.client(node) as client:
            await client.nodes.list()
            await client.services.list(stale=rng.random() < 0.5)

    async def drain(self, rng: random.Random, node: SimNode) -> None:
        """Take a worker's tasks elsewhere, or let it take some again."""
        worker = rng.choice(self.world.workers or self.world.managers)
        availability = rng.choice((Availability.DRAIN, Availability.PAUSE, Availability.ACTIVE, Availability.ACTIVE))
        async with self.client(node) as client:
            await client.nodes.set_availability(worker.node_id, availability)

    async def read(self, rng: random.Random, node: SimNode) -> None:
        """Read a register."""
        line = self.line(node)
        try:
            await self.registers.read(line, rng.choice(self.registers.keys))
        finally:
            await line.close()

    async def write(self, rng: random.Random, node: SimNode) -> None:
        """Read a register and write it with the version that was read."""
        line = self.line(node)
        try:
            await self.registers.write(line, rng.choice(self.registers.keys), pause_s=rng.choice((0.0, 0.0, 0.3)))
        finally:
            await line.close()

    def _some_service(self, rng: random.Random) -> str:
        return rng.choice(sorted(self._services)) if self._services else ""


Act = Callable[[Workload, random.Random, "SimNode"], Awaitable[None]]
ACTS: tuple[tuple[str, Act, float], ...] = (
    ("create", Workload.create, 2.0),
    ("scale", Workload.scale, 2.0),
    ("update", Workload.update, 2.0),
    ("rollback", Workload.rollback, 0.3),
    ("remove", Workload.remove, 0.8),
    ("drain", Workload.drain, 0.7),
    ("rotate", Workload.rotate, 0.4),
    ("look", Workload.look, 0.7),
    ("read", Workload.read, 2.0),
    ("write", Workload.write, 3.0),
)
MEMBER_ACTS: tuple[tuple[str, Act, float], ...] = (
    ("promote", members.promote, 0.25),
    ("demote", members.demote, 0.25),
    ("remove node", members.remove, 0.12),
    ("join", members.join, 0.12),
)
"""Done as well when SIM_MEMBERS is set: what they found last is not mended yet (docs/reliability.md)."""
if os.environ.get("SIM_MEMBERS"):
    ACTS += MEMBER_ACTS
