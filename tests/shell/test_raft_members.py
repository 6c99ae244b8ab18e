"""Raft processes over the in-memory bus: joining, writing, losing the leader, coming back from disk."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TypeVar

import pytest

from services.kit.bus.api import Caller, Meta
from services.kit.errors import FailedPrecondition, InvalidArgument, SwarmError, Unavailable
from services.kit.messages import store
from services.kit.messages.method import MANAGER, Call
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.value import Value
from services.kit.state.transaction import Op, create
from tests.support.raft_home import CLUSTER, Home, Homes, run_homes

RequestT = TypeVar("RequestT", bound=Value)
ReplyT = TypeVar("ReplyT", bound=Value)


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


def test_a_joiner_is_counted_only_when_it_knows_whom_to_answer(tmp_path: Path) -> None:
    """Else the death of its leader leaves a vote that cannot be given: nobody it knows asks for it."""

    async def scenario(homes: Homes) -> None:
        await homes.grow("a", "b")
        leader, joiner = await homes.leader(), homes.add("c")
        await joiner.start()
        assert leader.app is not None
        assert joiner.app is not None
        while "c" not in leader.app._member.member_ids:
            await leader.app._driver.turned.wait()
        assert joiner.app._member.log.membership.latest.ids >= {"a", "b"}

    run_homes(tmp_path, scenario)


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


async def join_three(homes: Homes) -> tuple[Home, list[Home]]:
    """Start three members and return the leader and the others."""
    await homes.grow("a", "b", "c")
    leader = await homes.leader()
    return leader, [home for home in homes.all.values() if home is not leader]


async def call(home: Home, method: Call[RequestT, ReplyT], request: RequestT) -> ReplyT:
    connection = await home.dial()
    try:
        return await connection.call(method, request)
    finally:
        await connection.close()


def member_ids(status: store.RaftStatus) -> set[str]:
    return {member.node_id for member in status.members}


def test_a_member_leaves_and_the_rest_go_on(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (leaving, other) = await join_three(homes)
        await call(leader, store.LEAVE, store.LeaveRequest(node_id=NodeId(leaving.name)))
        await homes.until(other, lambda status: member_ids(status) == {leader.name, other.name})
        await leaving.kill()
        assert (await leader.client().propose([node("x")])).version == 1

    run_homes(tmp_path, scenario)


def test_a_member_that_was_away_catches_up_from_a_leader_whose_address_it_never_heard(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (away, _) = await join_three(homes)
        await away.kill()
        await homes.grow("d")
        await call(leader, store.TRANSFER, store.TransferRequest(to=NodeId("d")))
        newcomer = homes.all["d"]
        await homes.until(newcomer, lambda status: status.ready)
        await newcomer.client().propose([node("x")])
        await away.start()
        await homes.until(away, lambda status: status.version == 1 and status.leader == "d")
        await versions_equal(homes, "a", "b", "c", "d")

    run_homes(tmp_path, scenario)


def test_a_removed_member_does_not_join_again_with_what_it_remembers(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (leaving, _) = await join_three(homes)
        assert leaving.app is not None
        remembered = leaving.app._record
        await call(leader, store.LEAVE, store.LeaveRequest(node_id=NodeId(leaving.name)))
        assert leader.app is not None
        with pytest.raises(FailedPrecondition, match="was removed"):
            await leader.app._roster.join(remembered)

    run_homes(tmp_path, scenario)


def test_a_removed_member_that_comes_back_is_told_so_and_disturbs_nobody(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (leaving, _) = await join_three(homes)
        await leaving.kill()
        await call(leader, store.LEAVE, store.LeaveRequest(node_id=NodeId(leaving.name)))
        term = (await leader.status()).term
        await leaving.start()
        await homes.until(leaving, lambda status: status.state == "removed")
        assert (await leader.status()).term == term
        assert leaving.name not in member_ids(await leader.status())
        await leader.client().propose([node("x")])

    run_homes(tmp_path, scenario)


def test_a_removal_that_would_lose_the_quorum_is_refused(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (dead, other) = await join_three(homes)
        await dead.kill()
        await homes.until(leader, lambda _: True)
        async with asyncio.timeout(10):
            while leader.app._member.reachable(NodeId(dead.name)):  # type: ignore[union-attr]
                await leader.app._driver.turned.wait()  # type: ignore[union-attr]
        with pytest.raises(Unavailable, match="majority"):
            await call(leader, store.LEAVE, store.LeaveRequest(node_id=NodeId(other.name)))
        await call(leader, store.LEAVE, store.LeaveRequest(node_id=NodeId(dead.name)))
        assert member_ids(await leader.status()) == {leader.name, other.name}

    run_homes(tmp_path, scenario)


def test_a_leader_that_shall_leave_hands_over_and_names_its_successor(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, _ = await join_three(homes)
        request = store.LeaveRequest(node_id=NodeId(leader.name))
        with pytest.raises(Unavailable) as handed_over:
            await call(leader, store.LEAVE, request)
        successor = homes.all[handed_over.value.details.leader]
        await homes.until(successor, lambda status: status.ready)
        await call(successor, store.LEAVE, request)
        await homes.until(successor, lambda status: leader.name not in member_ids(status))

    run_homes(tmp_path, scenario)


def test_the_last_member_cannot_leave(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        leader = await homes.leader()
        with pytest.raises(FailedPrecondition, match="last"):
            await call(leader, store.LEAVE, store.LeaveRequest(node_id=NodeId("a")))

    run_homes(tmp_path, scenario)


def test_a_removed_member_can_come_back_with_an_empty_directory(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (leaving, _) = await join_three(homes)
        await call(leader, store.LEAVE, store.LeaveRequest(node_id=NodeId(leaving.name)))
        await leaving.kill()
        shutil.rmtree(leaving.directory / "raft")
        leaving.known = tuple(home.peer for home in homes.all.values() if home is not leaving)
        await leaving.start()
        await homes.until(leaving, lambda status: leaving.name in member_ids(status))
        await versions_equal(homes, "a", "b", "c")

    run_homes(tmp_path, scenario)


def test_a_member_that_lost_its_directory_joins_anew_under_its_old_name(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (wiped, _) = await join_three(homes)
        await leader.client().propose([node("x")])
        await wiped.kill()
        shutil.rmtree(wiped.directory / "raft")
        wiped.known = tuple(home.peer for home in homes.all.values() if home is not wiped)
        await wiped.start()
        await homes.until(wiped, lambda status: status.state == "follower" and status.version == 1)
        await versions_equal(homes, "a", "b", "c")

    run_homes(tmp_path, scenario)


def test_a_new_address_is_taken_over_in_place(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (moving, _) = await join_three(homes)
        await moving.kill()
        moving.port += 7
        await moving.start()
        moved = str(moving.port + 2)
        await homes.until(leader, lambda status: any(m.raft_addr.endswith(f":{moved}") for m in status.members))
        assert len((await leader.status()).members) == 3
        await leader.client().propose([node("x")])
        await versions_equal(homes, "a", "b", "c")

    run_homes(tmp_path, scenario)


def test_a_survivor_makes_a_new_cluster_with_everything_in_it_and_only_once(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        leader, (survivor, other) = await join_three(homes)
        await leader.client().propose([node("x")])
        await versions_equal(homes, "a", "b", "c")
        for home in homes.all.values():
            await home.kill()
        await survivor.start(force_new_cluster=True)
        await homes.until(survivor, lambda status: status.ready and member_ids(status) == {survivor.name})
        assert await survivor.client().barrier() == 1
        shutil.rmtree(other.directory / "raft")
        other.known = (survivor.peer,)
        await other.start()
        await homes.until(other, lambda status: other.name in member_ids(status))
        await survivor.kill()
        await survivor.start(force_new_cluster=True)
        await homes.until(survivor, lambda status: status.leader is not None)
        assert member_ids(await survivor.status()) == {survivor.name, other.name}

    run_homes(tmp_path, scenario)


def test_a_joiner_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        leader = await homes.leader()
        connection = await leader.dial()
        caller = Caller(node_id="x", role=MANAGER, cluster_id=CLUSTER)
        request = store.JoinRequest(raft_addr="x:9", remote_addr="x:7", certificate=b"x", incarnation="1")
        with pytest.raises(FailedPrecondition, match="could not connect to prospective new cluster member"):
            await connection.call(store.JOIN, request, meta=Meta(caller=caller))
        await connection.close()

    run_homes(tmp_path, scenario)


def test_a_replica_follows_through_the_restart_of_its_raft_process(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        home = await homes.leader()
        await home.client().propose([node("one")])
        replica = home.replica()
        home.clients.clear()
        following = asyncio.ensure_future(replica.run())
        async with asyncio.timeout(10):
            await replica.wait_version(1)
        await home.kill()
        await home.start()
        replica._line._dial = home.dial
        await homes.leader()
        await home.client().propose([node("two")])
        async with asyncio.timeout(10):
            await replica.wait_version(2)
        assert set(replica.state.nodes) == {"one", "two"}
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await replica.close()

    run_homes(tmp_path, scenario)


def test_an_oversized_transaction_is_refused_with_its_size(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        leader = await homes.leader()
        with pytest.raises(InvalidArgument, match="more than 1572864 bytes"):
            await leader.client().propose([create(Node(id=NodeId("big"), remote_addr="x" * 1_600_000))])

    run_homes(tmp_path, scenario)
