"""CPU time of calls and stream items over the bus; ``python -m tests.bench.bus [memory] [ipc] [curve]``.

Client and server are two processes (one for memory); the figure is the CPU time of both, in microseconds per operation, the median of several
rounds. A call carries 200 bytes both ways through typed messages; a stream item carries 200 bytes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from services.kit.bus.api import Address, Connection, LocalAddress, RemoteAddress
from services.kit.bus.identity import load_identity, save_node, save_roots
from services.kit.bus.ports import parse_address
from services.kit.bus.zmq import ZmqBus
from services.kit.runtime.clock import SystemClock
from tests.support.buses import COUNT, ECHO, Answers, Word, line
from tests.support.pki import Authority

ROUNDS = 5
CALLS = 4000
ITEMS = 20_000
CONCURRENCY = (1, 16, 128)
WORD = Word(text="bench", number=7, data=b"x" * 180)


async def call_many(connection: Connection, concurrency: int) -> None:
    """Make all calls, so many at a time."""

    async def some(count: int) -> None:
        for _ in range(count):
            await connection.call(ECHO, WORD)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(some(CALLS // concurrency))


async def read_stream(connection: Connection) -> None:
    """Read all items of one stream."""
    async with connection.open(COUNT, Word(number=ITEMS, data=b"x" * 190)) as items:
        async for _ in items:
            pass


async def measure(connection: Connection, server_cpu: Callable[[], float], name: str) -> None:
    """Print one row."""
    cells = []
    await call_many(connection, 16)
    for concurrency in CONCURRENCY:
        costs, rates = [], []
        for _ in range(ROUNDS):
            begun, cpu = time.perf_counter(), time.process_time() + server_cpu()
            await call_many(connection, concurrency)
            costs.append((time.process_time() + server_cpu() - cpu) / CALLS * 1e6)
            rates.append(CALLS / (time.perf_counter() - begun))
        cells.append(f"{statistics.median(costs):6.1f} us {max(rates) / 1000:5.1f} k/s")
    costs, rates = [], []
    for _ in range(ROUNDS):
        begun, cpu = time.perf_counter(), time.process_time() + server_cpu()
        await read_stream(connection)
        costs.append((time.process_time() + server_cpu() - cpu) / ITEMS * 1e6)
        rates.append(ITEMS / (time.perf_counter() - begun))
    cells.append(f"{statistics.median(costs):6.1f} us {max(rates) / 1000:5.1f} k/s")
    sys.stdout.write(f"{name:8} " + "   ".join(cells) + "\n")
    sys.stdout.flush()


def serve(directory: str, pipe: Pipe) -> None:
    """Be the server process: listen both ways and tell the CPU time whenever asked."""

    async def run() -> None:
        bus = ZmqBus(load_identity(Path(directory) / "server"), clock=SystemClock())
        table = Answers()
        table.contexts = _Forgetful()
        remote = await bus.listen_remote("127.0.0.1", 0, table.table())
        await bus.listen_local(f"{directory}/bench.sock", table.table(trusted=True))
        pipe.send(remote.endpoint)
        stopped = asyncio.Event()

        def on_question() -> None:
            if pipe.recv() == "cpu":
                pipe.send(time.process_time())
            else:
                stopped.set()

        asyncio.get_running_loop().add_reader(pipe.fileno(), on_question)
        await stopped.wait()
        await bus.close()

    asyncio.run(run())


class _Forgetful(list):  # type: ignore[type-arg]
    """A list that keeps nothing."""

    def append(self, item: object) -> None:
        """Forget at once."""


@asynccontextmanager
async def other_process(directory: str) -> AsyncIterator[tuple[str, Callable[[], float]]]:
    """Run the server; yields its endpoint and a function that returns its CPU time."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=serve, args=(directory, far))
    process.start()
    try:

        def cpu() -> float:
            near.send("cpu")
            answer = near.recv()
            assert isinstance(answer, float)
            return answer

        yield near.recv(), cpu
    finally:
        near.send("stop")
        process.join()


async def bench_zmq(names: list[str]) -> None:
    """Measure over a Unix socket and over CURVE."""
    authority = Authority()
    manager, worker = authority.manager(), authority.worker()
    with tempfile.TemporaryDirectory() as directory:
        save_roots(Path(directory) / "server", manager.roots)
        save_node(Path(directory) / "server", manager.key, manager.certificate)
        async with other_process(directory) as (endpoint, cpu):
            host, port = parse_address(endpoint)
            addresses: dict[str, Address] = {
                "ipc": LocalAddress(path=f"{directory}/bench.sock"),
                "curve": RemoteAddress(host=host, port=port, certificate=manager.certificate),
            }
            bus = ZmqBus(worker, clock=SystemClock())
            for name in names:
                await measure(await bus.dial(addresses[name]), cpu, name)
            await bus.close()


async def main(names: list[str]) -> None:
    """Measure what was asked for."""
    columns = "   ".join(f"{f'{concurrency} at once':>19}" for concurrency in CONCURRENCY)
    load = os.getloadavg()[0]
    sys.stdout.write(f"CPU per call and best rate, load {load:.1f}\n         {columns}   {'stream item':>19}\n")
    if "memory" in names:
        async with line("memory-local", Path()) as on:
            on.answers.contexts = _Forgetful()
            await measure(on.connection, lambda: 0.0, "memory")
    overnet = [name for name in names if name != "memory"]
    if overnet:
        await bench_zmq(overnet)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["memory", "ipc", "curve"]))
