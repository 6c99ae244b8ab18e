"""Real raft processes over CURVE: kill -9 of the leader and of all, and every acknowledged write is there afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.kit.lifecycle.exit_codes import ExitCode
from tests.support import full_raft
from tests.support.raft_processes import RaftNode, RaftProcesses
from tests.support.store_writer import Writer, assert_all_there

pytestmark = pytest.mark.process


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


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_a_full_disk_stops_the_member_and_never_the_cluster(tmp_path: Path, role: str) -> None:
    async def scenario() -> None:
        async with RaftProcesses(tmp_path, module=full_raft.MODULE) as cluster:
            await cluster.grow("a", "b", "c")
            writer = Writer(cluster, "w")
            writing = asyncio.ensure_future(writer.run(under_way=4))
            await writer.wait_for(50)
            leader = await cluster.leader()
            full = leader if role == "leader" else next(node for node in cluster.nodes.values() if node is not leader)
            mark = full.directory / full_raft.FULL
            mark.touch()
            assert full.process is not None
            assert await full.process.wait() == ExitCode.DISK_FULL
            full.process = None
            await writer.wait_for(100)
            mark.unlink()
            await full.start()
            writer.stop()
            await writing
            await assert_all_there(cluster, writer.acknowledged)

    asyncio.run(scenario())
