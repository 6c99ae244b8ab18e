"""A whole swarm in one event loop and in virtual time: machines with all their processes, users, faults, and checkers that watch.

``play`` is one run: boot, faults (safety), heal (liveness). Everything that differs between runs comes from the seed, one stream of chance
per purpose. What must stay true: no code here or below reads real time or real chance.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, cast

from services.kit.bus.api import Caller, RemoteAddress
from services.kit.bus.memory import MemoryBus
from services.kit.bus.ports import parse_address
from services.kit.errors import DataLoss, SwarmError, Unauthenticated
from services.kit.messages import identity
from services.kit.model.ids import NodeId
from services.kit.model.states import Role
from services.raft.shell.app import RaftApp
from services.raft.shell.member import Member
from tests.sim.disk import ProcessDied
from tests.sim.founding import found
from tests.sim.loop import PARTY, VirtualLoop
from tests.sim.network import SimNetwork
from tests.sim.node import SimNode
from tests.sim.process import CANCELLED_WITHIN_S, SimProcess
from tests.sim.promise import Broken, Checker
from tests.sim.reference import Commit, Reference
from tests.sim.trace import Trace
from tests.sim.watcher import Watcher

TICK_S = 0.25
JOIN_AGAIN_S = 0.5
BOOT_WITHIN_S = 60.0


class World:
    """See the module."""

    def __init__(
        self, loop: VirtualLoop, seed: int, directory: Path, checkers: Iterable[Checker], *, managers: int, workers: int
    ) -> None:
        self.loop = loop
        self.seed = seed
        self.directory = directory
        self.network = SimNetwork(random.Random(f"{seed}/network"))
        self.trace = Trace(loop.time, _who, str(directory))
        self.checkers = tuple(checkers)
        self.reference = Reference(loop.time, self._committed)
        self.failure: asyncio.Future[BaseException] = loop.create_future()
        self.nodes: dict[str, SimNode] = {}
        for number in range(1, managers + workers + 1):
            self.add_node(Role.MANAGER if number <= managers else Role.WORKER)
        self.watchers: list[Watcher] = []
        self.faulty = False
        """True while faults may happen."""
        self._applied: dict[str, int] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._context = contextvars.copy_context()
        self.faults_seen: dict[str, int] = {}
        self.quiet_since: float | None = None
        """Since when there are no faults any more."""
        self.buried = 0

    def add_node(self, role: Role) -> SimNode:
        """Make a machine, which is nobody yet; its name says as what it came."""
        letter = "m" if role is Role.MANAGER else "w"
        name = f"{letter}{1 + sum(known.startswith(letter) for known in self.nodes)}"
        node = self.nodes[name] = SimNode(self, name, len(self.nodes) + 1, role, self.directory / name)
        return node

    # -- what there is

    @property
    def managers(self) -> list[SimNode]:
        """All managers that are part of the swarm."""
        return [node for node in self.nodes.values() if node.role is Role.MANAGER and not node.removed]

    @property
    def workers(self) -> list[SimNode]:
        """All workers that are part of the swarm."""
        return [node for node in self.nodes.values() if node.role is Role.WORKER and not node.removed]

    def member(self, node: SimNode) -> Member | None:
        """Return a node's raft member while its process serves."""
        app = cast("RaftApp | None", node.app("raft"))
        return None if app is None else app._member

    def leader(self) -> SimNode | None:
        """Return the newest ready leader."""
        leading = [(member.term, node.name) for node in self.managers if (member := self.member(node)) and member.ready]
        return self.nodes[max(leading)[1]] if leading else None

    def by_id(self, node_id: NodeId | None) -> SimNode | None:
        """Return the machine of a node."""
        return next((node for node in self.nodes.values() if node.node_id == node_id), None)

    # -- boot

    async def boot(self) -> None:
        """Found the cluster and let everybody join."""
        first, *others = self.nodes.values()
        node_id = NodeId(first.ids.new("node"))
        certificate, first.public_key = found(first.directory / "certificates", node_id, first.public_key)
        first.take_identity(node_id, certificate, ())
        first.power_on()
        self.spawn(self._tick())
        async with asyncio.timeout(BOOT_WITHIN_S):
            while self.reference.state.cluster is None:  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(0.05)
            for node in others:
                await self.let_in(node)
            for node in self.nodes.values():
                await node.wait_ready("agent")

    async def let_in(self, node: SimNode) -> None:
        """Join a machine: ask for a certificate with the token of its role, then start."""
        issued: identity.Issued | None = None
        while issued is None:
            try:
                issued = await self._ask_to_join(node)
            except SwarmError as error:
                self.trace.note(node.name, f"cannot join yet: {error}")
                await asyncio.sleep(JOIN_AGAIN_S)
        (node.directory / "certificates").mkdir(parents=True)
        (node.directory / "certificates" / "swarm-root-ca.crt").write_bytes(issued.roots)
        peers = tuple(manager.peer for manager in self.managers if manager.node_id)
        node.take_identity(issued.node_id, issued.certificate, peers)
        node.power_on()
        if node.role is Role.MANAGER:
            while (member := self.member(node)) is None or not member.is_member:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)

    async def _ask_to_join(self, node: SimNode) -> identity.Issued:
        cluster = self.reference.state.cluster
        assert cluster is not None
        tokens = cluster.root_ca.join_tokens
        token = tokens.manager if node.role is Role.MANAGER else tokens.worker
        door = self.managers[0]
        bus = MemoryBus(self.network, Caller(public_key=node.public_key), host=node.name, process="supervisor")
        try:
            host, port = parse_address(door.remote_addr)
            connection = await bus.dial(RemoteAddress(host=host, port=port, certificate=door.certificate))
            address = node.remote_addr if node.role is Role.MANAGER else ""
            return await connection.call(identity.ISSUE, identity.IssueRequest(token=token, remote_addr=address))
        finally:
            await bus.close()

    # -- watching

    def observe_turns(self, node: SimNode, app: RaftApp) -> None:
        """Look at a member after each of its turns."""
        self.spawn(self._follow(node, app))

    async def _follow(self, node: SimNode, app: RaftApp) -> None:
        process = node.processes["raft"]
        while not process.dead:
            self._look(node, app._member)
            await app._driver.turned.wait()

    def _look(self, node: SimNode, member: Member) -> None:
        applied = member.machine.applied_index
        known = self._applied.get(node.name, 0)
        if known > applied:
            known = 0
        # The first entry of a log only stands for the snapshot before it.
        for entry in member.log.entries.between(max(known, member.log.entries.first) + 1, applied):
            self.reference.take(node.name, entry)
        self._applied[node.name] = applied
        for checker in self.checkers:
            checker.turned(node, member)

    def _committed(self, commit: Commit) -> None:
        for checker in self.checkers:
            checker.committed(commit)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for checker in self.checkers:
                checker.ticked(self)

    # -- what ends

    def judge(self, process: SimProcess, error: BaseException | None) -> None:
        """A process ended by itself: a bug, or something that happens."""
        kind = "nothing" if error is None else type(error).__name__
        self.trace.note(str(process), f"ended by {kind}: {error}")
        if isinstance(error, Unauthenticated) and process.name == "agent":
            process.node.leave()
        elif error is None or isinstance(error, DataLoss) or not isinstance(error, SwarmError | OSError):
            self.fail(error or AssertionError(f"{process} just ended"))

    def fail(self, error: BaseException) -> None:
        """End the run."""
        if not self.failure.done():
            self.failure.set_result(error)

    def watch_burial(self, process: SimProcess) -> None:
        """See to it that a killed process really ends."""
        self.spawn(self._bury(process))

    async def _bury(self, process: SimProcess) -> None:
        tasks = list(process.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=CANCELLED_WITHIN_S)
        left = sorted(task.get_name() for task in process.tasks)
        if left:
            self.fail(Broken("a cancelled process ends", f"{process} still runs {', '.join(left)}"))
        self.buried += 1

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception that nobody waited for."""
        error = context.get("exception")
        party = PARTY.get()
        if isinstance(party, SimProcess) and party.dead:
            return
        if isinstance(error, ProcessDied | SwarmError | asyncio.CancelledError):
            return
        self.trace.note(_who(), f"unhandled: {context.get('message')} {error!r}")
        if isinstance(error, BaseException) and PARTY.get() is not None:
            self.fail(error)

    def close(self) -> None:
        """Kill everything."""
        for task in list(self._tasks):
            task.cancel()
        for node in self.nodes.values():
            node.power_off()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something of the world's own; its failure is the run's."""
        task = self.loop.create_task(work, name="world", context=self._context.copy())
        task.add_done_callback(self._on_done)
        self._tasks[task] = None
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            self.fail(error)


def _who() -> str:
    party = PARTY.get()
    return str(party) if party is not None else "world"
