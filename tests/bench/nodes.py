"""Whole nodes: how soon one is ready, how soon one has joined, how soon the swarm writes again, and what an idle node weighs.

    python -m tests.bench.nodes [rounds]

Everything is started with the command that a user types; times include the start of the interpreter. Memory is the sum over all processes of a
node of their proportional set size, which counts a page that several share only once.
"""

from __future__ import annotations

import select
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from services.kit.model.specs import ClusterSpec
from services.kit.runtime.clock import SystemClock
from tests.support.swarm import Swarm, SwarmNode, command_of, processes_of

Result = TypeVar("Result")
CLOCK = SystemClock()
ROUNDS = 5
TARGET_S = 1.5
IDLE_S = 5.0
"""How long a node is left alone before it is weighed."""


def main(rounds: int = ROUNDS) -> None:
    """Print a line for each figure."""
    _report("supervisor up to «node is ready»", [_in_a_swarm(_ready_s) for _ in range(rounds)])
    _report("join as a worker to READY", _in_a_swarm(partial(_joins_s, rounds=rounds, role="worker")))
    _report("join as a manager to READY", [_in_a_swarm(_manager_join_s) for _ in range(rounds)])
    _report("leader's kill -9 to the next write", _in_a_swarm(partial(_gaps_s, rounds=rounds)))
    _in_a_swarm(_weigh)


def _in_a_swarm(act: Callable[[Swarm], Result]) -> Result:
    with Swarm(Path(tempfile.gettempdir()) / f"nodes-{CLOCK.monotonic()}") as swarm:
        return act(swarm)


def _ready_s(swarm: Swarm) -> float:
    return _started_s(swarm.node("n1"))


def _manager_join_s(swarm: Swarm) -> float:
    swarm.start("n1")
    return _started_s(swarm.joining("n2", role="manager"))


def _joins_s(swarm: Swarm, *, rounds: int, role: str) -> list[float]:
    swarm.start("n1")
    times = []
    for number in range(rounds):
        node = swarm.joining(f"w{number}", role=role)
        times.append(_started_s(node))
        node.stop()
    return times


def _started_s(node: SwarmNode) -> float:
    """A node says that it is ready once its agent is registered, which is when the swarm calls it READY."""
    began = CLOCK.monotonic()
    node.start()
    return CLOCK.monotonic() - began


def _gaps_s(swarm: Swarm, *, rounds: int) -> list[float]:
    swarm.start("n1")
    for name in ("n2", "n3"):
        swarm.join(name, role="manager")
    gaps = []
    for number in range(rounds):
        leader = swarm.leader()
        survivor = next(node for node in swarm.nodes.values() if node is not leader)
        with survivor.client() as client:
            began = leader.kill()
            client.clusters.update("default", partial(_labelled, str(number)))
            gaps.append(CLOCK.monotonic() - began)
        leader.start()
    return gaps


def _labelled(value: str, spec: ClusterSpec) -> ClusterSpec:
    return replace(spec, annotations=replace(spec.annotations, labels={**spec.annotations.labels, "bench": value}))


def _weigh(swarm: Swarm) -> None:
    nodes = (swarm.start("n1"), swarm.join("n2"))
    select.select([], [], [], IDLE_S)
    for name, node in zip(("manager", "worker"), nodes, strict=True):
        weights = {_shown(pid): _pss_mib(pid) for pid in processes_of(node.state_dir)}
        parts = ", ".join(f"{process} {mib:.0f}" for process, mib in sorted(weights.items()))
        print(f"{'memory of an idle ' + name:<36} {sum(weights.values()):6.1f} MiB   ({parts})")


def _shown(pid: int) -> str:
    words = command_of(pid).split()
    module = next((word for word in words if word.startswith("services.")), words[1])
    return module.removeprefix("services.").replace("cli.", "")


def _pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _report(what: str, times: list[float]) -> None:
    median = statistics.median(times)
    verdict = "ok" if median <= TARGET_S else f"over {TARGET_S:g} s"
    print(f"{what:<36} median {median:.2f} s   best {min(times):.2f} s   worst {max(times):.2f} s   {verdict}")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
