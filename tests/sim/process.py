"""One simulated process: the real app of a process with everything around it replaced, and the ways in which a process ends.

Made and started by its node. What must stay true: after ``kill`` the process has no effect on anything outside, whatever its tasks still
do while they are cancelled; a process that ends by a bug fails the run.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol

from services.kit.bus.memory import MemoryBus
from services.kit.errors import SwarmError
from services.kit.lifecycle.app import App, Runtime
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.changes import Changes
from tests.sim.disk import ProcessDied
from tests.sim.loop import PARTY, Party

if TYPE_CHECKING:
    from tests.sim.node import SimNode

CANCELLED_WITHIN_S = 60.0
"""Virtual seconds after which a cancelled task that still lives counts as a bug."""


class Build(Protocol):
    """Makes the app of a process."""

    def __call__(self, runtime: Runtime) -> App: ...


class Line:
    """A process's line to its supervisor (``kit.lifecycle.app.Node``)."""

    def __init__(self, node: SimNode, process: SimProcess) -> None:
        self._node = node
        self._process = process

    @property
    def facts(self) -> Facts:
        """What the supervisor knows."""
        return self._node.facts

    async def changes(self) -> AsyncIterator[Facts]:
        """Yield the facts each time they change."""
        seen = self.facts
        while True:
            while self.facts is seen:
                await self._node.facts_changed.wait()
            seen = self.facts
            yield seen

    async def report_lock(self, unlock_key: bytes) -> None:
        """Nobody locks managers here."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Keep the list of managers."""
        self._node.learn_managers(managers)

    async def report_node(self, report: NodeReport) -> None:
        """Take what the swarm wants of this node."""
        self._node.hear_role(report.role)

    async def report_ready(self) -> None:
        """The process serves."""
        self._process.ready = True
        self._process.changed.announce()


class SimProcess(Party):
    """One run of one process."""

    def __init__(self, node: SimNode, name: str, build: Build) -> None:
        super().__init__()
        self.node = node
        self.name = name
        self.ready = False
        self.dead = False
        self.changed = Changes()
        self.app: Any = None
        self._build = build
        self._context = contextvars.copy_context()
        self._context.run(PARTY.set, self)
        self.bus: MemoryBus = self._context.run(
            lambda: MemoryBus(node.world.network, node.caller, host=node.name, process=name)
        )
        self._main: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"{self.node.name}/{self.name}"

    def start(self) -> None:
        """Run the app until it ends."""
        loop = self.node.world.loop
        self._main = loop.create_task(self._live(), name=f"{self}", context=self._context)

    async def stop(self) -> None:
        """Stop politely, as on a signal."""
        if self.dead or self._main is None:
            return
        self.node.world.trace.note(str(self), "told to stop")
        stopping = self.node.world.loop.create_task(self._stop(), name=f"{self}/stop", context=self._context.copy())
        await asyncio.wait({stopping})
        self.kill()
        if not stopping.cancelled() and stopping.exception() is not None:
            self.node.world.judge(self, stopping.exception())

    def kill(self, *, silently: bool = False) -> None:
        """End without another word; ``silently`` when the machine goes with it."""
        if self.dead:
            return
        self.dead = True
        self.bus.die(silently=silently)
        release = RELEASES.get(self.name)
        if release is not None and self.app is not None:
            release(self.app)
        if self.halted:
            self.node.world.loop.go_on(self)
        for task in list(self.tasks):
            task.cancel()
        self.node.world.watch_burial(self)

    async def _live(self) -> None:
        node = self.node
        runtime = Runtime(
            process=self.name,
            clock=node.clock,
            ids=node.ids,
            rng=node.rng,
            bus=self.bus,
            node=Line(node, self),
        )
        error: BaseException | None = None
        try:
            self.app = self._build(runtime)
            await self.app.start()
            if self.name == "raft":
                node.world.observe_turns(node, self.app)
            if self.name != "agent":
                await Line(node, self).report_ready()
            await self._serve()
        except asyncio.CancelledError:
            raise
        except ProcessDied:
            return
        except Exception as ended:  # noqa: BLE001 - what ends a process is judged by the world
            error = ended
        if not self.dead:
            node.world.judge(self, error)
            self.kill()
            node.ended(self)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        serving = loop.create_task(self.app.serve(), name=f"{self}/serve")
        broken = loop.create_task(self.bus.failed(), name=f"{self}/broken")
        done, _ = await asyncio.wait({serving, broken}, return_when=asyncio.FIRST_COMPLETED)
        if broken in done:
            raise broken.result()
        serving.result()

    async def _stop(self) -> None:
        assert self._main is not None
        self._main.cancel()
        for task in [task for task in self.tasks if task.get_name() == f"{self}/serve"]:
            task.cancel()
        await asyncio.wait({self._main})
        if self.app is None:
            return
        try:
            async with asyncio.timeout(8.0):
                await self.app.stop()
        except (TimeoutError, SwarmError):
            return


def _release_raft(app: Any) -> None:
    app._lock.release()


def _release_agent(app: Any) -> None:
    app._database.close()


RELEASES: dict[str, Callable[[Any], None]] = {"raft": _release_raft, "agent": _release_agent}
"""What the kernel would take back from a dead process."""
