"""Real raft processes over CURVE: kill -9 of the leader and of all, and every acknowledged write is there afterwards."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.transaction import create
from tests.support.raft_processes import RaftNode, RaftProcesses
from tests.support.running import eventually

pytestmark = pytest.mark.process


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


async def restart(nodes: list[RaftNode]) -> None:
    await asyncio.gather(*(node.start() for node in nodes))


def test_every_acknowledged_write_survives_kills_of_the_leader_and_of_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with RaftProcesses(tmp_path) as cluster:
            await cluster.grow("a", "b", "c")
            writer = Writer(cluster, "w")
            writing = asyncio.ensure_future(writer.run())
            await writer.wait_for(200)
            leader = await cluster.leader()
            await leader.kill()
            await writer.wait_for(200)
            await leader.start()
            for node in cluster.nodes.values():
                await node.kill()
            await restart(list(cluster.nodes.values()))
            await writer.wait_for(200)
            writer.stop()
            await writing
            await assert_all_there(cluster, writer.acknowledged)

    asyncio.run(scenario())


def test_a_member_joins_over_curve_while_others_write(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with RaftProcesses(tmp_path) as cluster:
            await cluster.grow("a")
            writer = Writer(cluster, "w")
            writing = asyncio.ensure_future(writer.run())
            await writer.wait_for(100)
            await cluster.grow("b", "c")
            await writer.wait_for(100)
            writer.stop()
            await writing
            await assert_all_there(cluster, writer.acknowledged)

    asyncio.run(scenario())


def test_a_polite_stop_hands_leadership_over_and_exits_with_zero(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with RaftProcesses(tmp_path) as cluster:
            await cluster.grow("a", "b", "c")
            leader = await cluster.leader()
            assert await leader.stop() == 0
            assert (await cluster.leader()) is not leader

    asyncio.run(scenario())
