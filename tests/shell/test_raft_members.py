"""Raft processes over the in-memory bus: joining, writing, losing the leader, coming back from disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.kit.errors import SwarmError, Unavailable
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.transaction import Op, create
from tests.support.raft_home import Homes, run_homes


def node(name: str) -> Op:
    return create(Node(id=NodeId(name)))


async def versions_equal(homes: Homes, *names: str) -> None:
    """Wait until the members have applied the same, and compare their states."""
    leader = await homes.leader()
    wanted = (await leader.status()).version
    states = []
    for name in names:
        home = homes.all[name]
        replica = home.replica()
        async with asyncio.timeout(10):
            async for _ in replica.follow():
                if replica.version >= wanted:
                    break
        states.append(list(replica.state.full()))
    assert all(state == states[0] for state in states)


def test_a_single_member_leads_and_takes_writes(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        leader = await homes.leader()
        client = leader.client()
        assert (await client.propose([node("x")])).version == 1
        assert await client.barrier() == 1

    run_homes(tmp_path, scenario)


def test_three_members_survive_the_loss_of_the_leader_and_restart_from_disk_with_equal_state(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a", "b", "c")
        leader = await homes.leader()
        await asyncio.gather(*(leader.client().propose([node(f"before-{n}")]) for n in range(50)))
        await leader.kill()
        second = await homes.leader()
        assert second is not leader
        assert (await second.client().propose([node("after")])).version == 51
        await leader.start()
        await versions_equal(homes, "a", "b", "c")
        for home in homes.all.values():
            await home.kill()
        for home in homes.all.values():
            await home.start()
        third = await homes.leader()
        assert await third.client().barrier() == 51
        await versions_equal(homes, "a", "b", "c")

    run_homes(tmp_path, scenario)


def test_a_member_joins_while_others_write(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        client = homes.all["a"].client()
        stop = False
        written = 0

        async def write() -> None:
            nonlocal written
            while not stop:
                await client.propose([node(f"n{written}")])
                written += 1

        writing = asyncio.ensure_future(write())
        await homes.grow("b", "c")
        stop = True
        await writing
        assert (await client.status()).version == written
        await versions_equal(homes, "a", "b", "c")

    run_homes(tmp_path, scenario)


def test_a_joiner_far_behind_fetches_the_snapshot(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        client = homes.all["a"].client()
        for batch in range(20):
            await asyncio.gather(*(client.propose([big_node(f"n{batch}-{n}")]) for n in range(5)))
        log = homes.all["a"].app._member.log  # type: ignore[union-attr]
        async with asyncio.timeout(10):
            while log.entries.first == 1:
                await client.propose([big_node(f"more-{log.entries.last}")])
        await homes.grow("b")
        await versions_equal(homes, "a", "b")

    run_homes(tmp_path, scenario, snapshot_log_bytes=200_000)


def big_node(name: str) -> Op:
    return create(Node(id=NodeId(name), remote_addr="x" * 3000))


def test_a_follower_names_the_leader(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a", "b")
        leader = await homes.leader()
        follower = next(home for home in homes.all.values() if home is not leader)
        with pytest.raises(Unavailable) as refused:
            await follower.client().propose([node("x")])
        assert refused.value.details.leader == leader.name
        assert refused.value.details.leader_addr == leader.peer.addr
        assert not refused.value.details.maybe_executed

    run_homes(tmp_path, scenario)


def test_leadership_is_handed_over_without_a_failed_write(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a", "b", "c")
        leader = await homes.leader()
        client = leader.client()
        writes = [asyncio.ensure_future(client.propose([node(f"n{n}")])) for n in range(100)]
        await leader.app._roster.transfer(None)  # type: ignore[union-attr]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert not [e for e in outcomes if isinstance(e, SwarmError) and e.details.maybe_executed]
        assert await homes.leader() is not leader

    run_homes(tmp_path, scenario)
