"""A worker dies: how long until it is known to be DOWN, and until all of its tasks run elsewhere. Real nodes, real tasks.

    python -m tests.bench.worker_death [rounds]

Once with the default heartbeat of 5 s and once with 0.5 s. Docker's swarm mode, with its default of 5 s: DOWN after 10.6–15.1 s, all tasks
after 16.7–22.7 s (four nodes, twelve replicas).
"""

from __future__ import annotations

import select
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from services.client.blocking import BlockingClient
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.specs import DispatcherConfig
from services.kit.model.states import NodeState, TaskState
from swarmbus import service_spec
from tests.support.swarm import Swarm, SwarmNode

REPLICAS = 12
WORKERS = 3
ASK_S = 0.02
PATIENCE_S = 60.0


def until(condition: Callable[[], object], began: float) -> float:
    """Return the seconds since ``began`` at which the condition holds."""
    while not condition():
        assert time.perf_counter() - began < PATIENCE_S, "it takes too long"
        select.select([], [], [], ASK_S)
    return time.perf_counter() - began


def node_of(client: BlockingClient, name: str) -> Node:
    """Return a node by its hostname."""
    return next(node for node in client.nodes.list() if node.description.hostname == name)


def running_beside(client: BlockingClient, lost: NodeId) -> int:
    """Return how many tasks run on other nodes."""
    tasks = client.tasks.list(stale=True)
    return sum(
        t.status.state is TaskState.RUNNING and t.desired_state is TaskState.RUNNING and t.node_id != lost
        for t in tasks
    )


def bench(client: BlockingClient, victim: SwarmNode) -> tuple[float, float, float]:
    """Kill a worker; return seconds to DOWN, to all tasks elsewhere, and from its return to READY."""
    lost = node_of(client, victim.name).id
    began = victim.kill()
    began = time.perf_counter()
    down = until(lambda: node_of(client, victim.name).status.state is NodeState.DOWN, began)
    moved = until(lambda: running_beside(client, lost) == REPLICAS, began)
    began = time.perf_counter()
    victim.start(wait=False)
    back = until(lambda: node_of(client, victim.name).status.state is NodeState.READY, began)
    client.services.update(
        "web", lambda spec: replace(spec, task=replace(spec.task, force_update=spec.task.force_update + 1))
    )
    until(lambda: client.services.statuses()[0].running == REPLICAS, time.perf_counter())
    client.services.wait("web", timeout_s=PATIENCE_S)
    return down, moved, back


def main(rounds: int = 3) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as directory, Swarm(Path(directory)) as swarm:
        manager = swarm.start("m1")
        workers = [swarm.join(f"w{number + 1}") for number in range(WORKERS)]
        with manager.client() as client:
            spec = service_spec("web", command=("sleep", "100000"), replicas=REPLICAS)
            client.services.create(replace(spec, update=replace(spec.update, parallelism=0, monitor_s=0.0)))
            client.services.wait("web", timeout_s=PATIENCE_S)
            for period_s in (5.0, 0.5):
                config = DispatcherConfig(heartbeat_period_s=period_s)
                client.clusters.update("default", lambda spec, config=config: replace(spec, dispatcher=config))  # type: ignore[misc]
                select.select([], [], [], 6.0)  # every agent has beaten once more, and knows the new period
                figures = [bench(client, workers[number % WORKERS]) for number in range(rounds)]
                down, moved, back = (statistics.median(each) for each in zip(*figures, strict=True))
                spread = f"{min(f[1] for f in figures):.2f}–{max(f[1] for f in figures):.2f}"
                print(
                    f"heartbeat {period_s:g} s: DOWN after {down:.2f} s, all tasks RUNNING after {moved:.2f} s ({spread}),"
                    f" READY {back:.2f} s after its start"
                )
    print("Docker swarm mode, 5 s: DOWN 10.6–15.1 s, tasks 16.7–22.7 s, return 0.2–3.5 s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
