"""What the agent costs: tasks started per second by each driver, its memory idle and per task, its processor time with 200 idle tasks.

The rates are of an agent in this process against a scripted dispatcher, from the assignment to the last RUNNING; the rest is measured on the
agent of a real node. Run it alone, on a quiet machine: ``python -m tests.bench.agent``.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loguru import logger

from services.agent.taskd import stop_all
from services.kit.model.specs import Annotations, ContainerSpec, Replicated, ServiceSpec, TaskSpec
from services.kit.model.states import TaskState
from tests.bench.taskd import cpu_s, pss_bytes
from tests.support import docker_engine, rootfs
from tests.support.agents import ScriptedDispatcher, make_spec, make_task, one_world, task_id
from tests.support.running import eventually
from tests.support.swarm import Swarm, SwarmNode, wait_until

ROUNDS = 3
IDLE_S = 10.0
TASKS_OF_NODE = 200
DEADLINE_S = 300.0
SLEEP = ("/bin/sh", "-c", "exec sleep 1000000")


@asynccontextmanager
async def agent_of(state_dir: Path, driver: str, docker_socket: str) -> AsyncIterator[ScriptedDispatcher]:
    """Run an agent with one driver; afterwards its tasks are gone."""
    (state_dir / "run").mkdir(mode=0o700)
    async with (
        one_world(state_dir) as world,
        world.agent(drivers=(driver,), docker_socket=docker_socket) as agent,
    ):
        await eventually(lambda: world.dispatcher.registrations)
        yield world.dispatcher
        everything = tuple(task_id(number) for number in range(1, 1001))
        world.dispatcher.assign(removed=everything)
        await eventually(lambda: not agent.tasks.describe(), DEADLINE_S)
    stop_all.main(["", str(state_dir / "worker"), str(state_dir / "run" / "taskd.sock"), "0"])


async def start_rate(driver: str, tasks: int, image: str, docker_socket: str) -> float:
    """Return tasks started per second."""
    with tempfile.TemporaryDirectory(prefix="agent-bench-") as name:
        async with agent_of(Path(name), driver, docker_socket) as dispatcher:
            container = ContainerSpec() if driver == "fake" else ContainerSpec(command=SLEEP, image=image)
            options = {"network": "none"} if driver == "docker" else {}
            spec = make_spec(task=TaskSpec(driver=driver, container=container, driver_options=options))
            numbers = range(1, tasks + 1)
            began = time.perf_counter()
            dispatcher.assign(*(make_task(number) for number in numbers), specs=(spec,))
            await eventually(
                lambda: all(dispatcher.state(task_id(number)) is TaskState.RUNNING for number in numbers), DEADLINE_S
            )
            return tasks / (time.perf_counter() - began)


def show(what: str, figures: list[float], unit: str) -> None:
    """Print a median with its range."""
    spread = f"{min(figures):.1f}–{max(figures):.1f}" if len(figures) > 1 else "one run"
    print(f"{what:48} {statistics.median(figures):10.1f} {unit:12} ({spread})")


def measure_rates() -> None:
    """Measure each driver that can run here."""
    with contextlib.ExitStack() as stack:
        image = rootfs.make_rootfs(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "image")
        plans = [("fake", 1000, ""), ("process", 200, "")]
        socket = "/nothing"
        if not rootfs.missing():
            plans.append(("oci", 50, str(image)))
        if not docker_engine.missing():
            socket = stack.enter_context(docker_engine.docker_engine()).socket
            plans.append(("docker", 20, docker_engine.IMAGE))
        for driver, tasks, where in plans:
            rates = [asyncio.run(start_rate(driver, tasks, where, socket)) for _ in range(ROUNDS)]
            show(f"{driver}: {tasks} tasks at once, started per second", rates, "tasks/s")


def running(node: SwarmNode, service: str) -> int:
    """Count the running tasks of a service."""
    with node.client() as client:
        return sum(task.status.state is TaskState.RUNNING for task in client.services.tasks(service))


def let_pass(seconds: float) -> None:
    """Let time pass, whose cost is to be measured."""
    threading.Event().wait(seconds)


def wait_running(node: SwarmNode, service: str, tasks: int) -> None:
    """Wait until so many tasks of a service run."""
    wait_until(lambda: running(node, service) == tasks, f"{service} tasks run", DEADLINE_S)


def measure_node() -> None:
    """Measure the agent of a real node, idle and with tasks."""
    with tempfile.TemporaryDirectory() as name, Swarm(Path(name)) as swarm:
        node = swarm.start("n1")
        agent = node.status().pid_of("agent")
        idle = pss_bytes(agent)
        show("memory, idle", [idle / 2**20], "MiB")
        before = cpu_s(agent)
        let_pass(IDLE_S)
        show("processor, idle", [(cpu_s(agent) - before) / IDLE_S * 100], "%")
        held = idle
        for driver, tasks in (("process", TASKS_OF_NODE), ("fake", 1000)):
            spec = ServiceSpec(
                annotations=Annotations(name=driver),
                mode=Replicated(replicas=tasks),
                task=TaskSpec(
                    driver=driver, container=ContainerSpec(command=SLEEP) if driver == "process" else ContainerSpec()
                ),
            )
            with node.client() as client:
                client.services.create(spec)
            wait_running(node, driver, tasks)
            now = pss_bytes(agent)
            show(f"memory per {driver} task, of {tasks}", [(now - held) / 1024 / tasks], "KiB")
            held = now
            before = cpu_s(agent)
            let_pass(IDLE_S)
            show(f"processor with {tasks} more idle {driver} tasks", [(cpu_s(agent) - before) / IDLE_S * 100], "%")


def main() -> None:
    """Measure and print."""
    logger.remove()
    measure_node()
    measure_rates()


if __name__ == "__main__":
    main()
