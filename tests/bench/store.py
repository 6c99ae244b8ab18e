"""Writes per second and latencies of a cluster of three raft processes over CURVE, the client in this process of its own.

    python -m tests.bench.store [seconds per round]

A write is a transaction over two objects, about 1 KB in all, as the reference's figures are.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.tables import Table, encode_object
from services.kit.state.transaction import Action, Op
from services.kit.store.client import StoreClient
from tests.support.raft_processes import RaftProcesses

OUTSTANDING = (1, 16, 64, 256)
FILLING = "x" * 400


async def measure(client: StoreClient, label: str, outstanding: int, seconds: float) -> tuple[float, float, float]:
    """Return writes per second, and the median and 99th percentile of their latency in milliseconds."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    count = 0

    async def write() -> None:
        nonlocal count
        while time.perf_counter() < end:
            count += 1
            ops = tuple(op(f"{label}-{half}{count}") for half in "ab")
            begun = time.perf_counter()
            await client.propose(ops)
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(write() for _ in range(outstanding)))
    latencies.sort()
    return len(latencies) / seconds, latencies[len(latencies) // 2] * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3


def op(name: str) -> Op:
    thing = Node(id=NodeId(name), remote_addr=FILLING)
    return Op(action=Action.CREATE, table=Table.NODE, id=name, object=encode_object(thing))


async def run(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="swb") as directory:
        async with RaftProcesses(Path(directory)) as cluster:
            await cluster.grow("a", "b", "c")
            client = cluster.client(await cluster.leader())
            await measure(client, "warm-up", 16, 0.5)
            sys.stdout.write(f"{'outstanding':>11} {'writes/s':>9} {'p50 ms':>8} {'p99 ms':>8}\n")
            for outstanding in OUTSTANDING:
                rate, p50, p99 = await measure(client, str(outstanding), outstanding, seconds)
                sys.stdout.write(f"{outstanding:>11} {rate:>9.0f} {p50:>8.2f} {p99:>8.2f}\n")


if __name__ == "__main__":
    asyncio.run(run(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0))
