"""What a large state costs the store: restarts, memory of an object, and the longest pause of the leader while it writes snapshots.

    python -m tests.bench.store_state [objects of 1 KB, 200000 by default]

One member for restarts and memory; then three, whose leader is asked for one write after the other while snapshots of all that are taken. The
same without snapshots says how much of the longest pause is the machine's.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, Node
from services.kit.model.specs import ClusterSpec, RaftConfig
from services.kit.state.tables import Table, encode_object
from services.kit.state.transaction import Action, Op, Transaction, create
from services.kit.store.client import StoreClient
from services.raft.core.commands import encode_transactions
from services.raft.core.entries import Entry
from services.raft.shell.log import Log
from tests.support.raft_processes import RaftNode, RaftProcesses

OBJECT_BYTES = 960
OPS = 100
"""Objects of one transaction while the state is filled."""
UNDER_WAY = 32
ENTRIES = 100_000
NEVER = 1 << 40
SNAPSHOT_LOG_BYTES = 16 << 20
PAUSE_WRITES = 3000
PAUSE_OPS = 20
"""Objects of one of these writes, so that they fill the log soon enough."""


def main(objects: int) -> None:
    """Print one line a figure."""
    with tempfile.TemporaryDirectory(prefix="swb") as directory:
        asyncio.run(_many_entries(Path(directory) / "entries"))
        asyncio.run(_large_state(Path(directory) / "state", objects))
        for name, log_bytes in (("without snapshots", NEVER), ("during snapshots", SNAPSHOT_LOG_BYTES)):
            asyncio.run(_pauses(Path(directory) / name.split()[0], objects, name, log_bytes))


def _op(name: str) -> Op:
    thing = Node(id=NodeId(name), remote_addr="x" * OBJECT_BYTES)
    return Op(action=Action.CREATE, table=Table.NODE, id=name, object=encode_object(thing))


async def _fill(client: StoreClient, objects: int) -> None:
    firsts = iter(range(0, objects, OPS))

    async def write() -> None:
        for first in firsts:
            await client.propose(tuple(_op(f"n-{number}") for number in range(first, min(first + OPS, objects))))

    await asyncio.gather(*(write() for _ in range(UNDER_WAY)))


async def _restart(cluster: RaftProcesses, node: RaftNode) -> float:
    """Return the seconds from the start of a killed member until it leads and has applied everything."""
    begun = time.perf_counter()
    await node.start(**cluster.settings)
    await cluster.until(node, lambda status: status.ready)
    return time.perf_counter() - begun


async def _many_entries(directory: Path) -> None:
    async with RaftProcesses(directory, snapshot_log_bytes=NEVER) as cluster:
        await cluster.grow("a")
        node = await cluster.leader()
        quiet = ClusterSpec(raft=RaftConfig(snapshot_interval=NEVER))
        await cluster.client(node).propose([create(Cluster(id=ClusterId("c"), spec=quiet))])
        await node.kill()
        empty_s = await _restart(cluster, node)
        await node.kill()
        _lengthen(node.directory / "raft")
        print(
            f"restart with {ENTRIES} entries of 1 KB   {await _restart(cluster, node):6.2f} s   (empty: {empty_s:.2f} s)"
        )


def _lengthen(directory: Path) -> None:
    """Append to a stopped member's log as the member would have."""
    log = Log(directory / "log", (directory / "data.key").read_bytes(), entropy=bytes)
    for number in range(ENTRIES):
        transaction = Transaction(client="bench", sequence=number, at=1.0, ops=(_op(f"e-{number}"),))
        log.append(Entry(encode_transactions([transaction]), log.entries.last + 1, log.term))
        if not number % 1000:
            log.sync()
    log.set_commit_index(log.entries.last)
    log.close()


async def _large_state(directory: Path, objects: int) -> None:
    async with RaftProcesses(directory) as cluster:
        await cluster.grow("a")
        node = await cluster.leader()
        empty_kb = _resident_kb(node)
        await _fill(cluster.client(node), objects)
        await node.kill()
        restart_s = await _restart(cluster, node)
        each = (_resident_kb(node) - empty_kb) * 1024 / objects
        print(f"restart with {objects // 1000} MB of state          {restart_s:6.2f} s")
        print(
            f"memory of a 1 KB object            {each:6.0f} B   (after the restart; {empty_kb // 1024} MB when empty)"
        )


def _resident_kb(node: RaftNode) -> int:
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def _pauses(directory: Path, objects: int, name: str, log_bytes: int) -> None:
    async with RaftProcesses(directory, snapshot_log_bytes=log_bytes) as cluster:
        await cluster.grow("a", "b", "c")
        leader = await cluster.leader()
        client = cluster.client(leader)
        await _fill(client, objects)
        before = _snapshots(leader)
        latencies = []
        for number in range(PAUSE_WRITES):
            begun = time.perf_counter()
            await client.propose([_op(f"p-{number}-{part}") for part in range(PAUSE_OPS)])
            latencies.append(time.perf_counter() - begun)
        latencies.sort()
        p50, p99, longest = (latencies[int(len(latencies) * part)] * 1e3 for part in (0.5, 0.99, 0.99999))
        taken = _snapshots(leader) - before
        print(f"a write {name:<20} p50 {p50:6.2f}  p99 {p99:6.2f}  longest {longest:6.1f} ms   ({taken} snapshots)")


def _snapshots(node: RaftNode) -> int:
    return (node.directory / "raft.log").read_text().count("snapshot written")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
