"""Watches of some tables: what is sent, what is not, and how far a watcher knows to have got."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.kit.messages import store
from services.kit.model.ids import NodeId, SecretId
from services.kit.model.objects import Node, Secret
from services.kit.model.specs import Annotations, SecretSpec
from services.kit.state.state import State
from services.kit.state.tables import Table
from services.kit.state.transaction import Op, Transaction, create
from services.kit.store.replica import Replica
from services.raft.core.ring import WatchRing
from services.raft.shell.service import ITEM_BYTES, SKIPPED_MAX, full_state, next_step
from tests.support.raft_home import Home, Homes, run_homes

NODES = frozenset({Table.NODE})


def node(name: str, size: int = 0) -> Op:
    return create(Node(id=NodeId(name), remote_addr="x" * size))


def secret(name: str) -> Op:
    return create(Secret(id=SecretId(name), spec=SecretSpec(annotations=Annotations(name=name), data=b"x")))


def filled(*steps: tuple[Op, ...]) -> tuple[State, WatchRing]:
    state, ring = State(), WatchRing()
    for sequence, ops in enumerate(steps):
        result, changes = state.apply(Transaction(client="c", sequence=sequence, at=1.0, ops=ops))
        assert result.conflict is None
        ring.append(result.version, changes)
    return state, ring


def test_a_watch_of_some_tables_passes_over_what_changes_others() -> None:
    _, ring = filled((secret("a"),), (secret("b"), node("n")), (secret("c"),))
    step = next_step(ring, 0, NODES)
    assert (step.version, [change.id for change in step.changes]) == (2, ["n"])
    rest = next_step(ring, step.version, NODES)
    assert (rest.version, rest.changes) == (3, ())


def test_it_says_how_far_it_got_when_there_is_nothing_for_long() -> None:
    _, ring = filled(*((secret(f"s{number}"),) for number in range(SKIPPED_MAX + 10)))
    assert next_step(ring, 0, NODES) == store.WatchItem(version=SKIPPED_MAX)


def test_a_full_state_is_made_item_by_item_and_holds_only_what_is_wanted() -> None:
    state, _ = filled((secret("a"),), *((node(f"n{number}", ITEM_BYTES),) for number in range(5)))
    frozen = state.freeze()
    items = full_state(frozen, NODES)
    first = next(items)
    assert (first.reset, first.synced, len(first.changes)) == (True, False, 1)
    rest = list(items)
    assert [item.synced for item in rest] == [False] * (len(rest) - 1) + [True]
    assert not any(item.reset for item in rest)
    assert [c.id for item in (first, *rest) for c in item.changes] == [f"n{number}" for number in range(5)]


def test_an_empty_state_is_one_item() -> None:
    assert list(full_state(State().freeze(), NODES)) == [store.WatchItem(version=0, reset=True, synced=True)]


async def follow_to(replica: Replica, version: int) -> None:
    """Follow until a version, without listening to the end of it."""
    following = asyncio.ensure_future(replica.run())
    async with asyncio.timeout(10):
        await replica.wait_version(version)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def replica_of(home: Home, *tables: Table) -> Replica:
    replica = Replica(home.dial, tables=tables)
    home.clients.append(replica)
    return replica


def test_a_replica_of_some_tables_reaches_every_version_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        home = await homes.leader()
        client = home.client()
        await client.propose([node("before")])
        await client.propose([secret("before")])
        replica = replica_of(home, Table.NODE)
        await follow_to(replica, 2)
        await client.propose([secret("after"), node("after")])
        await client.propose([secret("later")])
        await follow_to(replica, 4)
        assert set(replica.state.nodes) == {"before", "after"}
        assert not replica.state.secrets

    run_homes(tmp_path, scenario)
