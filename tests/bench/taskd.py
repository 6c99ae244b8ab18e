"""What taskd costs: tasks started per second, its memory idle and per task, its processor time with idle tasks, and its log pump.

Run it alone, on a quiet machine: ``python -m tests.bench.taskd``.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from pathlib import Path

from services.agent.taskd.records import TaskSpec
from tests.support.taskd_home import Home, taskd_home

ROUNDS = 5
TASKS = 200
LOG_BYTES = 200_000_000
IDLE_S = 2.0


def pss_bytes(pid: int) -> int:
    """Return the proportional share of memory of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("smaps_rollup has no Pss")


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def start_many(home: Home, specs: list[TaskSpec]) -> float:
    """Start tasks side by side and return the seconds it took."""
    began = time.perf_counter()
    await asyncio.gather(*(home.client.start(spec) for spec in specs))
    return time.perf_counter() - began


async def one_round() -> dict[str, float]:
    """Measure once, with a taskd of its own."""
    figures: dict[str, float] = {}
    async with taskd_home() as home:
        taskd = (await home.client.connect()).pid
        idle = pss_bytes(taskd)
        figures["memory idle, MiB"] = idle / 2**20
        specs = [home.spec(f"sleeper-{number}", "sleep", "1000") for number in range(TASKS)]
        figures["tasks started per second"] = TASKS / await start_many(home, specs)
        figures["memory per task, KiB"] = (pss_bytes(taskd) - idle) / 1024 / TASKS
        before = cpu_s(taskd)
        await asyncio.sleep(IDLE_S)
        figures[f"processor with {TASKS} idle tasks, %"] = (cpu_s(taskd) - before) / IDLE_S * 100
        began = time.perf_counter()
        await asyncio.gather(*(home.client.kill(spec.id) for spec in specs))
        figures["tasks killed per second"] = TASKS / (time.perf_counter() - began)
        before, began = cpu_s(taskd), time.perf_counter()
        await home.client.start(home.spec("writer", "head", "-c", str(LOG_BYTES), "/dev/zero"))
        await home.client.wait("writer")
        figures["log, MB per second"] = LOG_BYTES / 1e6 / (time.perf_counter() - began)
        figures["log, processor seconds per GB"] = (cpu_s(taskd) - before) / (LOG_BYTES / 1e9)
    return figures


def main() -> None:
    """Print medians."""
    rounds = [asyncio.run(one_round()) for _ in range(ROUNDS)]
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        sys.stdout.write(
            f"taskd: {name}: {statistics.median(values):.2f} (least {min(values):.2f}, most {max(values):.2f})\n"
        )


if __name__ == "__main__":
    main()
