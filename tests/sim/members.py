"""What users do to the nodes of a swarm: promote, demote, remove, and let new ones in."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from services.kit.model.specs import NodeSpec
from services.kit.model.states import Role

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.workload import Workload

NODES_MAX = 8
MANAGERS_MAX = 5


async def promote(workload: Workload, rng: random.Random, node: SimNode) -> None:
    """Make a worker a manager."""
    workers = [worker for worker in workload.world.workers if worker.node_id]
    if workers and len(workload.world.managers) < MANAGERS_MAX:
        await _shall_be(workload, node, rng.choice(workers), Role.MANAGER)


async def demote(workload: Workload, rng: random.Random, node: SimNode) -> None:
    """Make a manager a worker, perhaps the one that leads or the one that is asked."""
    if len(workload.world.managers) > 1:
        managers = [manager for manager in workload.world.managers if manager.node_id]
        await _shall_be(workload, node, rng.choice(managers), Role.WORKER)


async def remove(workload: Workload, rng: random.Random, node: SimNode) -> None:
    """Remove a worker, wherever it is."""
    workers = [worker for worker in workload.world.workers if worker.node_id]
    if len(workers) > 1:
        gone = rng.choice(workers)
        async with workload.client(node) as client:
            await client.nodes.remove(gone.node_id, force=True)
        workload.world.trace.note("user", f"removed node {gone.name}")


async def join(workload: Workload, rng: random.Random, node: SimNode) -> None:
    """Let a new machine in; it goes on trying when nobody can let it in now."""
    world = workload.world
    if len(world.nodes) < NODES_MAX:
        role = Role.MANAGER if rng.random() < 0.4 and len(world.managers) < MANAGERS_MAX else Role.WORKER
        world.spawn(world.let_in(world.add_node(role)))


async def _shall_be(workload: Workload, asked: SimNode, node: SimNode, role: Role) -> None:
    def changed(spec: NodeSpec) -> NodeSpec:
        return replace(spec, desired_role=role)

    async with workload.client(asked) as client:
        await client.nodes.update(node.node_id, changed)
    workload.world.trace.note("user", f"{node.name} shall be a {role.value}")
