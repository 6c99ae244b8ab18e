"""Writes and linearizable reads per second of three raft processes over CURVE, beside three members of etcd when it is installed.

    python -m tests.bench.store [seconds per figure] [rounds]

Both sync before they acknowledge. All figures of a round are taken one after the other, so that a neighbour's load meets everybody; what is
printed is the median of the rounds, and the median of the ratios. The client is this process, the members are processes of their own.
One object is 1 KB; two are 2 × 0.5 KB: a transaction here, a transaction of two guarded puts there.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.tables import Table, encode_object
from services.kit.state.transaction import Action, Op
from services.kit.store.client import StoreClient
from tests.support import etcd
from tests.support.raft_processes import RaftProcesses

OUTSTANDING = (1, 16, 64, 256)
Work = Callable[[int], Awaitable[object]]
"""Does the operation with this number."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What one measurement gave."""

    rate: float
    p50_ms: float
    p99_ms: float


async def measure(work: Work, outstanding: int, seconds: float, first: int) -> Figure:
    """Keep so many operations under way for a while."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    count = first

    async def one_after_the_other() -> None:
        nonlocal count
        while (begun := time.perf_counter()) < end:
            count += 1
            await work(count)
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(one_after_the_other() for _ in range(outstanding)))
    latencies.sort()
    at = latencies.__getitem__
    return Figure(len(latencies) / seconds, at(len(latencies) // 2) * 1e3, at(int(len(latencies) * 0.99)) * 1e3)


def ours(client: StoreClient) -> dict[str, Work]:
    """The operations on the store."""

    def op(name: str, size: int) -> Op:
        thing = Node(id=NodeId(name), remote_addr="x" * size)
        return Op(action=Action.CREATE, table=Table.NODE, id=name, object=encode_object(thing))

    return {
        "one object": lambda number: client.propose((op(f"one-{number}", 960),)),
        "two objects": lambda number: client.propose((op(f"a-{number}", 460), op(f"b-{number}", 460))),
        "read": lambda _: client.barrier(),
    }


def theirs(client: etcd.EtcdClient) -> dict[str, Work]:
    """The same on etcd."""
    half, whole = b"x" * 480, b"x" * 1000

    def two(number: int) -> Awaitable[object]:
        pair = ((b"a-%d" % number, half), (b"b-%d" % number, half))
        return client.call(etcd.TXN, etcd.create_two(*pair))

    return {
        "one object": lambda number: client.call(etcd.PUT, etcd.put(b"one-%d" % number, whole)),
        "two objects": two,
        "read": lambda _: client.call(etcd.RANGE, etcd.read(b"one-1")),
    }


async def run(seconds: float, rounds: int) -> None:
    """Measure and print."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swb")))
        cluster = await stack.enter_async_context(RaftProcesses(directory / "ours"))
        await cluster.grow("a", "b", "c")
        sides = {"swarmbus": ours(cluster.client(await cluster.leader()))}
        if etcd.available():
            (directory / "etcd").mkdir()
            members = await stack.enter_async_context(etcd.Etcd(directory / "etcd"))
            client = await members.leader()
            stack.callback(client.close)
            sides["etcd"] = theirs(client)
        figures: dict[tuple[str, int, str], list[Figure]] = {}
        for round_ in range(rounds + 1):
            await _round(sides, figures, partial(measure, seconds=seconds), round_)
    _print(figures, list(sides))


async def _round(
    sides: dict[str, dict[str, Work]],
    figures: dict[tuple[str, int, str], list[Figure]],
    take: Callable[..., Awaitable[Figure]],
    round_: int,
) -> None:
    """Take every figure once; those of the first round warm up and are dropped."""
    for kind in ("one object", "two objects", "read"):
        for outstanding in OUTSTANDING:
            for side, works in sides.items():
                first = round_ * 100_000_000 + outstanding * 100_000
                figure = await take(works[kind], outstanding, first=first)
                if round_:
                    figures.setdefault((kind, outstanding, side), []).append(figure)


def _print(figures: dict[tuple[str, int, str], list[Figure]], sides: list[str]) -> None:
    head = "".join(f" {side + '/s':>11} {'p50 ms':>8} {'p99 ms':>8}" for side in sides)
    print(f"{'':<12} {'outstanding':>11}{head} {'ratio':>7}")
    for kind, outstanding in dict.fromkeys(key[:2] for key in figures):
        line = f"{kind:<12} {outstanding:>11}"
        for side in sides:
            taken = figures[(kind, outstanding, side)]
            rate, p50, p99 = (
                statistics.median(getattr(figure, name) for figure in taken) for name in ("rate", "p50_ms", "p99_ms")
            )
            line += f" {rate:>11.0f} {p50:>8.2f} {p99:>8.2f}"
        if len(sides) > 1:
            pairs = zip(*(figures[(kind, outstanding, side)] for side in sides), strict=True)
            line += f" {statistics.median(one.rate / other.rate for one, other in pairs):>7.2f}"
        print(line)


if __name__ == "__main__":
    given = [float(each) for each in sys.argv[1:]]
    asyncio.run(run(given[0] if given else 2.0, int(given[1]) if len(given) > 1 else 3))
