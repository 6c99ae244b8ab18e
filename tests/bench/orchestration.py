"""A service of 10,000 tasks on 100 agents, from ``create`` to all RUNNING: real processes, real sockets, CURVE, one manager that syncs.

    python -m tests.bench.orchestration [tasks] [agents] [rounds]

The agents are bare (see tests/support/fake_agents.py), which is how SwarmKit's figure of 1,500–2,760 tasks/s was taken; with SwarmKit's own agent and a
driver that does nothing it was 625–662 (both: 10,000 tasks on 100 agents on such a machine, one manager). Prints tasks per second, and the
processor time that each process spent.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from services.client.blocking import BlockingClient
from services.kit.model.specs import Annotations, Replicated, ServiceSpec, TaskSpec
from services.kit.model.states import Availability, NodeState, TaskState
from tests.support.swarm import ROOT, Swarm, SwarmNode, clean_environment, wait_until

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 300.0
ASK_S = 0.1


class Clocks:
    """Processor time of the manager's processes and of the agents."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._before = {name: cpu_s(pid) for name, pid in pids.items()}

    def spent(self) -> dict[str, float]:
        """Return seconds since this was made, by process."""
        return {name: cpu_s(pid) - self._before[name] for name, pid in self._pids.items()}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def fake_agents(manager: SwarmNode, token: str, count: int) -> Iterator[int]:
    """Run bare agents in a process of their own; yields its pid once all are registered."""
    with tempfile.TemporaryDirectory(prefix="sbf-") as directory:
        command = [sys.executable, "-m", "tests.support.fake_agents", manager.remote_api, token, str(count), directory]
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            began = time.perf_counter()
            line = process.stdout.readline()
            assert line.strip() == "joined", f"the agents did not join: {line!r}"
            print(f"{count} agents joined in {time.perf_counter() - began:.1f} s")
            yield process.pid
        finally:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()


def bench(client: BlockingClient, clocks: dict[str, int], tasks: int, number: int) -> tuple[float, float]:
    """Create and remove a service; returns the seconds until all of its tasks run, and until all are gone."""
    spec = ServiceSpec(
        annotations=Annotations(name=f"bench-{number}"),
        task=TaskSpec(driver="fake"),
        mode=Replicated(replicas=tasks),
    )
    took = Clocks(clocks)
    began = time.perf_counter()
    service = client.services.create(spec)
    wait(lambda: client.services.statuses((service.id,))[0].running >= tasks)
    seconds = time.perf_counter() - began
    print(f"round {number}: {tasks / seconds:,.0f} tasks/s ({seconds:.2f} s)")
    for name, spent in took.spent().items():
        memory = memory_mb(clocks[name])
        print(f"  {name:12} {spent:6.2f} CPU s  {1e6 * spent / tasks:6.0f} µs a task  {memory:5.0f} MB")
    began = time.perf_counter()
    client.services.remove(service.id)
    wait(lambda: not client.tasks.list())
    return seconds, time.perf_counter() - began


def wait(condition: Callable[[], bool]) -> None:
    """Ask ten times a second, which costs the manager little beside the work that is measured."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        select.select([], [], [], ASK_S)


def main(tasks: int = 10_000, agents: int = 100, rounds: int = 3) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as directory, Swarm(Path(directory)) as swarm:
        manager = swarm.start("m1", "--log-level", "info")
        with manager.client() as client, fake_agents(manager, swarm.token("worker"), agents) as agents_pid:
            own = next(node for node in client.nodes.list() if node.description.hostname == "m1")
            client.nodes.update(own.id, lambda node: replace(node, availability=Availability.DRAIN))
            wait_until(
                lambda: sum(n.status.state is NodeState.READY for n in client.nodes.list()) == agents + 1,
                "all are ready",
            )
            fact = manager.status()
            clocks = {each.process: each.pid for each in fact.processes} | {"agents": agents_pid}
            seconds = [bench(client, clocks, tasks, number + 1) for number in range(rounds)]
            assert not [task for task in client.tasks.list() if task.status.state is TaskState.RUNNING]
    created = statistics.median(each for each, _ in seconds)
    removed = statistics.median(each for _, each in seconds)
    print(f"{tasks} tasks on {agents} agents: {tasks / created:,.0f} tasks/s to RUNNING, removed in {removed:.1f} s")
    print("SwarmKit: 1,500–2,760 tasks/s with bare agents, 625–662 with its own; removal 12–22 s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
