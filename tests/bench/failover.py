"""From kill -9 of the leader to the next acknowledged write, with default settings and real processes.

    python -m tests.bench.failover [kills of raft processes alone] [kills of whole nodes]

First three raft processes, their client dialling whoever leads: what elections cost. Then three whole nodes, every process of the leader killed at
once, the write going through the control socket of a survivor: what a user sees.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from services.kit.errors import SwarmError
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.specs import ClusterSpec
from services.kit.runtime.clock import SystemClock
from services.kit.state.transaction import create
from tests.support.raft_processes import RaftNode, RaftProcesses
from tests.support.swarm import Swarm

CLOCK = SystemClock()
WRITE_S = 20.0


def main(raft_kills: int, node_kills: int) -> None:
    """Print one line for each of the two."""
    asyncio.run(_raft(raft_kills))
    if node_kills:
        _nodes(node_kills)


async def _raft(kills: int) -> None:
    with tempfile.TemporaryDirectory(prefix="swb") as directory:
        async with RaftProcesses(Path(directory)) as cluster:
            await cluster.grow("a", "b", "c")
            gaps = [await _one_kill(cluster, number) for number in range(kills)]
    _report("raft processes", gaps)


async def _one_kill(cluster: RaftProcesses, number: int) -> float:
    killed = await cluster.leader()
    assert killed.process is not None
    began = CLOCK.monotonic()
    await killed.kill()
    survivors = [node for node in cluster.nodes.values() if node is not killed]
    writes = [asyncio.ensure_future(_write(cluster, node, number)) for node in survivors]
    done, rest = await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED, timeout=WRITE_S)
    gap_s = CLOCK.monotonic() - began
    assert done, f"no write within {WRITE_S:g} s"
    for write in rest:
        write.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await killed.start()
    await cluster.until(killed, lambda status: status.state == "follower")
    return gap_s


async def _write(cluster: RaftProcesses, node: RaftNode, number: int) -> None:
    """Write through this member as soon as it leads."""
    client = cluster.client(node)
    while True:
        await cluster.until(node, lambda status: status.ready)
        with suppress(SwarmError):
            await client.propose([create(Node(id=NodeId(f"n{number}")))])
            return


def _nodes(kills: int) -> None:
    with Swarm(Path(tempfile.gettempdir()) / "failover") as swarm:
        swarm.start("n1")
        for name in ("n2", "n3"):
            swarm.join(name, role="manager")
        gaps = []
        for number in range(kills):
            leader = swarm.leader()
            survivor = next(node for node in swarm.nodes.values() if node is not leader)
            with survivor.client() as client:
                began = leader.kill()
                client.clusters.update("default", partial(_labelled, str(number)))
                gaps.append(CLOCK.monotonic() - began)
            leader.start()
    _report("whole nodes", gaps)


def _labelled(value: str, spec: ClusterSpec) -> ClusterSpec:
    return replace(spec, annotations=replace(spec.annotations, labels={**spec.annotations.labels, "bench": value}))


def _report(what: str, gaps: list[float]) -> None:
    gaps.sort()
    p50, p99 = gaps[len(gaps) // 2], gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))]
    print(f"{what:<16} {len(gaps):>3} kills   p50 {p50:.2f} s   p99 {p99:.2f} s   longest {gaps[-1]:.2f} s")


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    main(*(given + [50, 50][len(given) :]))
