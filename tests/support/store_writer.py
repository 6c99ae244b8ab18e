"""A writer that knows what was acknowledged, and the check that every member has it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from services.kit.errors import SwarmError
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.transaction import create
from tests.support.raft_processes import RaftProcesses
from tests.support.running import eventually


class Writer:
    """Writes to whoever leads, and remembers what was acknowledged."""

    def __init__(self, cluster: RaftProcesses, tag: str) -> None:
        self._cluster = cluster
        self._tag = tag
        self.acknowledged: set[str] = set()
        self._count = 0
        self._stopped = asyncio.Event()

    async def run(self, *, under_way: int = 16) -> None:
        """Write until stopped."""
        await asyncio.gather(*(self._write() for _ in range(under_way)))

    def stop(self) -> None:
        self._stopped.set()

    async def _write(self) -> None:
        while not self._stopped.is_set():
            with suppress(SwarmError, TimeoutError):
                client = self._cluster.client(await self._cluster.leader())
                while not self._stopped.is_set():
                    self._count += 1
                    name = f"{self._tag}-{self._count}"
                    await client.propose([create(Node(id=NodeId(name)))], timeout_s=5)
                    self.acknowledged.add(name)

    async def wait_for(self, more: int) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = len(self.acknowledged) + more
        await eventually(lambda: len(self.acknowledged) >= wanted, 20)


async def assert_all_there(cluster: RaftProcesses, acknowledged: set[str]) -> None:
    """Every member has the same state, with every acknowledged write in it."""
    leader = await cluster.leader()
    version = await cluster.client(leader).barrier()
    states = []
    for node in cluster.nodes.values():
        replica = await cluster.state(node, version)
        missing = acknowledged - set(replica.state.nodes)
        assert not missing, f"{node.name} lost {len(missing)} of {len(acknowledged)} acknowledged writes"
        states.append(list(replica.state.full()))
    assert all(state == states[0] for state in states)
