"""One run of the simulator, and cutting a failing one short.

``play`` boots a swarm, lets users and faults at it, heals everything and waits until it has converged. The result is a function of the
seed (and of the faults left out). Called by ``__main__`` and by the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysyncobj.syncobj

from tests.sim.checkers import all_checkers
from tests.sim.checkers.convergence import PROMISE, missing
from tests.sim.checkers.history import judge
from tests.sim.faults import Fault, draw, heal, inflict
from tests.sim.loop import PARTY, Stalled, VirtualLoop
from tests.sim.process import SimProcess
from tests.sim.promise import Broken
from tests.sim.trace import Trace
from tests.sim.watcher import Watcher
from tests.sim.workload import Workload
from tests.sim.world import World

SECONDS = 40.0
"""Virtual seconds of faults in one run."""
CONVERGE_WITHIN_S = 120.0
LOOK_EVERY_S = 0.5
CALM_S = 8.0
"""How long what has converged must stay so."""
CREEP_S = 1e-6
ROUNDS_MAX = 3_000_000


@dataclass(slots=True, kw_only=True)
class Result:
    """What came out of a run."""

    seed: int
    faults: tuple[Fault, ...]
    failure: BaseException | None = None
    digest: str = ""
    lines: int = 0
    trace: Trace | None = None
    virtual_s: float = 0.0
    real_s: float = 0.0
    converged_s: float = 0.0
    commits: int = 0
    done: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """The failure in one line; empty when there was none."""
        if self.failure is None:
            return ""
        return (
            str(self.failure) if isinstance(self.failure, Broken) else f"{type(self.failure).__name__}: {self.failure}"
        )

    @property
    def promise(self) -> str:
        """Which promise was broken."""
        return self.failure.promise if isinstance(self.failure, Broken) else type(self.failure).__name__


def play(seed: int, *, seconds: float = SECONDS, faults: tuple[Fault, ...] | None = None) -> Result:
    """Play one run."""
    chosen = draw(seed, seconds) if faults is None else faults
    result = Result(seed=seed, faults=chosen)
    began = time.perf_counter()
    loop = VirtualLoop(creep_s=CREEP_S)
    with _library_in_virtual_time(loop, seed), tempfile.TemporaryDirectory(dir=_memory(), prefix="swb-sim") as home:
        world = _world(loop, seed, Path(home))
        result.trace = world.trace
        world.trace.open()
        loop.set_exception_handler(world.on_loop_error)
        try:
            loop.run_until_complete(_play(world, result, chosen, seconds))
        except (Exception, Stalled) as error:  # noqa: BLE001 - whatever ends a run is its result
            result.failure = error
        finally:
            _end(loop, world)
        result.digest, result.lines = world.trace.digest, world.trace.count
        result.virtual_s = loop.time()
        result.commits = world.reference.state.version
        result.seen = dict(sorted(world.faults_seen.items()))
    result.real_s = time.perf_counter() - began
    return result


def shorten(result: Result, *, seconds: float = SECONDS, within_s: float = 60.0) -> Result:
    """Return a run that breaks the same promise with as few faults as could be found in the time."""
    best = result
    ends = time.perf_counter() + within_s
    size = max(1, len(best.faults) // 2)
    while size >= 1 and best.faults:
        at = 0
        while at < len(best.faults) and time.perf_counter() < ends:
            fewer = best.faults[:at] + best.faults[at + size :]
            tried = play(result.seed, seconds=seconds, faults=fewer)
            if tried.failure is not None and tried.promise == result.promise:
                best = tried
            else:
                at += size
        size //= 2
    return best


def _world(loop: VirtualLoop, seed: int, home: Path) -> World:
    rng = random.Random(f"{seed}/world")
    managers = rng.choice((1, 3, 3, 3, 5))
    world = World(loop, seed, home, all_checkers(), managers=managers, workers=rng.choice((1, 2, 3)))
    if rng.random() < 0.5:
        for node in world.nodes.values():
            node.clock.drift(rng.uniform(-5e-4, 5e-4))
            node.clock.wall_offset = rng.uniform(-30.0, 30.0)
    return world


async def _play(world: World, result: Result, faults: tuple[Fault, ...], seconds: float) -> None:
    story = asyncio.get_running_loop().create_task(_story(world, result, faults, seconds), name="story")
    either: list[asyncio.Future[Any]] = [story, world.failure]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if world.failure.done():
        story.cancel()
        await asyncio.wait({story})
        result.failure = world.failure.result()
    else:
        story.result()


async def _story(world: World, result: Result, faults: tuple[Fault, ...], seconds: float) -> None:
    await world.boot()
    workload = Workload(world, users=3)
    await workload.prepare()
    world.trace.note("world", "faults")
    world.faulty = True
    users = world.spawn(workload.run())
    watcher = Watcher(workload)
    world.watchers.append(watcher)
    watching = world.spawn(watcher.run())
    await inflict(world, faults, seconds)
    users.cancel()
    await asyncio.wait({users})
    heal(world)
    result.converged_s = await _converge(world)
    watching.cancel()
    await asyncio.wait({watching})
    judge(world, workload)
    for checker in world.checkers:
        checker.healed(world)
    result.done = dict(sorted(workload.done.items()))


async def _converge(world: World) -> float:
    """Wait until everything is as it should be and stays so; returns how long that took."""
    world.quiet_since = began = world.loop.time()
    calm_since: float | None = None
    while True:
        index = world.reference.index
        await asyncio.sleep(LOOK_EVERY_S)
        now = world.loop.time()
        what = missing(world, index)
        if what:
            if calm_since is not None:
                world.trace.note("world", f"not calm: {what[0]}")
            calm_since = None
        else:
            calm_since = now if calm_since is None else calm_since
            if now - calm_since >= CALM_S:
                return calm_since - began
        if now - began > CONVERGE_WITHIN_S:
            raise Broken(PROMISE, f"not within {CONVERGE_WITHIN_S:g} s: {'; '.join(what[:5]) or 'it never stays calm'}")


def _end(loop: VirtualLoop, world: World) -> None:
    """Kill everything and let the cancelled end."""
    world.close()

    async def wait() -> None:
        mine = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not mine]
        for task in sorted(left, key=lambda task: task.get_name()):
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=60.0)

    with contextlib.suppress(Stalled):
        loop.run_until_complete(wait())
    world.trace.close()
    loop.close()


def _memory() -> str | None:
    """Return a directory in memory, so that thousands of small files cost nothing."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def _library_in_virtual_time(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Let the raft library live in the time of whichever process runs it, with chance from the seed."""

    def monotonic() -> float:
        party = PARTY.get()
        return party.node.clock.monotonic() if isinstance(party, SimProcess) else loop.time()

    known, chance = pysyncobj.syncobj.monotonicTime, random.getstate()
    pysyncobj.syncobj.monotonicTime = monotonic
    random.seed(seed)
    try:
        yield
    finally:
        pysyncobj.syncobj.monotonicTime = known
        random.setstate(chance)
