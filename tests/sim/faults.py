"""What goes wrong in a run: a random subset of the kinds, at random times, drawn from the seed before the run begins.

A fault is a value that names machines by number, so that a run can be played again without some of its faults: that is how a failing trace
is cut short. Every fault ends by itself or at the latest in ``heal``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds after the boot."""
    kind: str
    node: int
    """Number of a machine; taken modulo what there is."""
    other: int
    seconds: float
    size: float
    """Between 0 and 1; each kind makes of it what it needs."""

    def __str__(self) -> str:
        return f"{self.at:7.2f} {self.kind:<12} node {self.node} other {self.other} for {self.seconds:.2f} s ({self.size:.3f})"


Act = Callable[["World", Fault], Awaitable[None]]


def draw(seed: int, seconds: float) -> tuple[Fault, ...]:
    """Return the faults of a run."""
    rng = random.Random(f"{seed}/faults")
    kinds = [kind for kind in sorted(KINDS) if rng.random() < 0.45] or ["kill"]
    pace_s = rng.choice((0.7, 1.5, 3.0, 6.0))
    faults = []
    at = rng.uniform(0.5, 4.0)
    while at < seconds:
        faults.append(
            Fault(
                at=at,
                kind=rng.choice(kinds),
                node=rng.randrange(60),
                other=rng.randrange(60),
                seconds=rng.choice((0.2, 1.0, 3.0, 8.0)) * rng.uniform(0.5, 1.5),
                size=rng.random(),
            )
        )
        at += rng.expovariate(1 / pace_s)
    return tuple(faults)


async def inflict(world: World, faults: tuple[Fault, ...], seconds: float) -> None:
    """Let the faults happen, each at its time; returns when the time is over."""
    began = world.loop.time()
    for fault in faults:
        await asyncio.sleep(max(0.0, began + fault.at - world.loop.time()))
        world.spawn(_one(world, fault))
    await asyncio.sleep(max(0.0, began + seconds - world.loop.time()))


def heal(world: World) -> None:
    """End every fault."""
    world.trace.note("world", "heal")
    world.faulty = False
    world.network.heal()
    for node in world.nodes.values():
        node.disk.spare()
        node.disk.full = False
        node.go_on()
        node.power_on()


async def _one(world: World, fault: Fault) -> None:
    if world.faulty:
        world.faults_seen[fault.kind] = world.faults_seen.get(fault.kind, 0) + 1
        world.trace.note("fault", str(fault).strip())
        await KINDS[fault.kind](world, fault)


def _node(world: World, number: int) -> SimNode:
    nodes = [node for node in world.nodes.values() if not node.removed]
    return nodes[number % len(nodes)]


def _manager(world: World, number: int) -> SimNode:
    managers = world.managers
    return managers[number % len(managers)]


def _other(world: World, fault: Fault) -> SimNode:
    node = _node(world, fault.node)
    others = [other for other in world.nodes.values() if other is not node]
    return others[fault.other % len(others)]


async def _kill(world: World, fault: Fault) -> None:
    node = _node(world, fault.node)
    names = list(node.processes)
    if names:
        node.kill(names[int(fault.size * len(names))])


async def _kill_leader(world: World, fault: Fault) -> None:
    leader = world.leader()
    if leader is not None:
        leader.kill(("raft", "dispatcher", "gateway")[int(fault.size * 3)])


async def _power(world: World, fault: Fault) -> None:
    node = _node(world, fault.node)
    node.power_off()
    await asyncio.sleep(fault.seconds)
    node.power_on()


async def _blackout(world: World, fault: Fault) -> None:
    for node in world.managers:
        node.power_off()
    await asyncio.sleep(fault.seconds)
    for node in world.managers:
        node.power_on()


async def _tear(world: World, fault: Fault) -> None:
    """Let the power go in the middle of what the store writes."""
    node = _manager(world, fault.node)
    node.disk.burn(1 + int(fault.size * 8), node.power_off)
    await asyncio.sleep(fault.seconds + 1.0)
    node.disk.spare()
    node.power_on()


async def _full_disk(world: World, fault: Fault) -> None:
    node = _manager(world, fault.node)
    node.disk.full = True
    await asyncio.sleep(fault.seconds)
    node.disk.full = False


async def _restart(world: World, fault: Fault) -> None:
    node = _node(world, fault.node)
    await node.shut_down()
    await asyncio.sleep(fault.seconds)
    node.power_on()


async def _halt(world: World, fault: Fault) -> None:
    node = _node(world, fault.node)
    names = list(node.processes)
    node.halt("" if fault.size < 0.5 or not names else names[int((fault.size - 0.5) * 2 * len(names))])
    await asyncio.sleep(fault.seconds)
    node.go_on()


async def _cut(world: World, fault: Fault) -> None:
    world.network.cut(_node(world, fault.node).name, _other(world, fault).name)


async def _silence(world: World, fault: Fault) -> None:
    await _apart(world, [_node(world, fault.node)], [_other(world, fault)], fault.seconds)


async def _isolate(world: World, fault: Fault) -> None:
    node = _node(world, fault.node)
    await _apart(world, [node], [other for other in world.nodes.values() if other is not node], fault.seconds)


async def _split(world: World, fault: Fault) -> None:
    rng = random.Random(fault.size)
    sides: tuple[list[SimNode], list[SimNode]] = ([], [])
    for node in world.nodes.values():
        sides[rng.randrange(2)].append(node)
    await _apart(world, *sides, fault.seconds)


async def _bridge(world: World, fault: Fault) -> None:
    """Split the managers so that one of them still reaches both sides."""
    managers = world.managers
    middle = managers[fault.node % len(managers)]
    rest = [node for node in managers if node is not middle]
    await _apart(world, rest[: len(rest) // 2], rest[len(rest) // 2 :], fault.seconds)


async def _one_way(world: World, fault: Fault) -> None:
    source, target = _node(world, fault.node).name, _other(world, fault).name
    world.network.hold(source, target)
    await asyncio.sleep(fault.seconds)
    world.network.release(source, target)


async def _slow(world: World, fault: Fault) -> None:
    node, other = _node(world, fault.node).name, _other(world, fault).name
    world.network.slow_down(node, other, 0.01 + fault.size * 0.6)
    await asyncio.sleep(fault.seconds)
    world.network.speed_up(node, other)


async def _lose(world: World, fault: Fault) -> None:
    world.network.loss, world.network.doubling = fault.size * 0.3, fault.size * 0.1
    await asyncio.sleep(fault.seconds)
    world.network.loss = world.network.doubling = 0.0


async def _step_clock(world: World, fault: Fault) -> None:
    node = _node(world, fault.node)
    node.clock.wall_offset += (fault.size - 0.5) * 120.0


async def _apart(world: World, side: list[SimNode], other: list[SimNode], seconds: float) -> None:
    names, others = [node.name for node in side], [node.name for node in other]
    world.network.split(names, others)
    await asyncio.sleep(seconds)
    if world.faulty:
        world.network.join(names, others)


KINDS: dict[str, Act] = {
    "blackout": _blackout,
    "bridge": _bridge,
    "cut": _cut,
    "full disk": _full_disk,
    "halt": _halt,
    "isolate": _isolate,
    "kill": _kill,
    "kill leader": _kill_leader,
    "lose": _lose,
    "one way": _one_way,
    "power": _power,
    "restart": _restart,
    "silence": _silence,
    "slow": _slow,
    "split": _split,
    "step clock": _step_clock,
    "tear": _tear,
}
"""Every kind of fault; a run draws some of them."""
