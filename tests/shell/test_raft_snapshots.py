"""Snapshots: when they are taken and what is kept is the cluster's choice; a transfer that breaks goes on where it broke."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.kit.bus.api import Caller, Connection, Context, RemoteAddress
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.bus.rpc import Table
from services.kit.errors import Unavailable
from services.kit.messages import consensus
from services.kit.messages.method import MANAGER
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, Node
from services.kit.model.specs import ClusterSpec, RaftConfig
from services.kit.state.state import State
from services.kit.state.transaction import Transaction, create
from services.raft.core.members import Configuration
from services.raft.core.snapshot import PART_BYTES, Assembly, Head
from services.raft.shell.snapshots import SUFFIX, Snapshots
from services.raft.shell.transfer import SnapshotTransfer
from tests.support.raft_group import KEY
from tests.support.raft_home import Home, Homes, run_homes


def node(name: str, size: int = 0) -> Node:
    return Node(id=NodeId(name), remote_addr="x" * size)


def indexes(home: Home) -> list[int]:
    return sorted(int(path.stem) for path in (home.directory / "raft" / "snapshots").glob(f"*{SUFFIX}"))


def test_interval_old_snapshots_and_the_tail_for_slow_followers_come_from_the_cluster(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        home = await homes.leader()
        client = home.client()
        config = RaftConfig(snapshot_interval=20, keep_old_snapshots=2, log_entries_for_slow_followers=5)
        await client.propose([create(Cluster(id=ClusterId("c"), spec=ClusterSpec(raft=config)))])
        assert home.app is not None
        member = home.app._member
        written = 0
        async with asyncio.timeout(20):
            while len(indexes(home)) < 3 or indexes(home)[0] < 60:
                await client.propose([create(node(f"n{written}"))])
                written += 1
        kept = indexes(home)
        assert len(kept) == 3
        assert all(after - before >= 20 for before, after in itertools.pairwise(kept))
        await home.app._driver.until(lambda: member.log.entries.first > kept[-1] - 6)
        assert member.log.entries.first <= kept[-1] - 4

    run_homes(tmp_path, scenario)


@dataclass
class Owner:
    """Stands in for the member, its driver and its links."""

    connection_to: Connection
    member_ids: frozenset[NodeId] = frozenset({NodeId("b")})
    observers: dict[NodeId, object] = field(default_factory=dict)
    installed: asyncio.Future[Assembly] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def member(self) -> Owner:
        return self

    def connection(self, _node_id: NodeId) -> Connection:
        return self.connection_to

    def install(self, assembly: Assembly) -> bool:
        self.installed.set_result(assembly)
        return True

    def wake(self) -> None:
        """Do nothing."""


def manager(name: str) -> Caller:
    return Caller(node_id=name, role=MANAGER, cluster_id="cluster", public_key=name.encode())


def shelf(directory: Path) -> Snapshots:
    directory.mkdir()
    return Snapshots(directory, KEY, entropy=bytes)


def filled() -> State:
    state = State()
    for number in range(6):
        ops = (create(node(f"n{number}", PART_BYTES)),)
        state.apply(Transaction(client="c", sequence=number, at=1.0, ops=ops))
    return state


def test_a_transfer_that_breaks_goes_on_where_it_broke(tmp_path: Path) -> None:
    asked: list[int] = []

    def breaking(snapshots: Snapshots) -> Callable[..., AsyncIterator[consensus.SnapshotPiece]]:
        async def serve(
            _context: Context, request: consensus.SnapshotRequest
        ) -> AsyncIterator[consensus.SnapshotPiece]:
            asked.append(request.sequence)
            for sent, (number, payload, last) in enumerate(snapshots.payloads(9, request.sequence)):
                if sent == 3:
                    raise Unavailable("the link broke")
                yield consensus.SnapshotPiece(index=9, sequence=number, payload=payload, last=last)

        return serve

    async def scenario() -> None:
        state = filled()
        source, target = shelf(tmp_path / "source"), shelf(tmp_path / "target")
        source.write(Head(9, 1, state.version, Configuration()), state.freeze())
        network = MemoryNetwork()
        server, client = (MemoryBus(network, manager(name), host=name) for name in ("a", "b"))
        table = Table()
        table.on_feed(consensus.SNAPSHOT, breaking(source))
        await server.listen_remote("a", 3, table)
        connection = await client.dial(RemoteAddress(host="a", port=3, certificate=b"a"))
        owner = Owner(connection)
        transfer = SnapshotTransfer(owner, owner, target)  # type: ignore[arg-type]
        running = asyncio.ensure_future(transfer.run())
        async with asyncio.timeout(10):
            while not owner.installed.done():
                transfer.want(NodeId("a"), 9)
                await asyncio.sleep(0)
        assert list(owner.installed.result().state.full()) == list(state.full())
        assert asked[:3] == [0, 3, 6]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()
        await server.close()

    asyncio.run(scenario())
