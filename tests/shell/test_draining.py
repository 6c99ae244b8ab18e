"""From an unwanted task to its agent: by way of every gateway's table."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from services.kit.model.ids import TaskId
from services.kit.model.specs import EndpointSpec, IngressConfig, PortConfig, Replicated, ServiceSpec
from services.kit.model.states import TaskState
from tests.support.convergence import a_service_spec
from tests.support.dispatching import Agent, House, Routes, house, wait_for_leader
from tests.support.running import eventually, run_async

PORT = 8080
_replace = msgspec.structs.replace


def published(replicas: int, ingress: IngressConfig = IngressConfig()) -> ServiceSpec:
    port = PortConfig(target_port=80, published_port=PORT, ingress=ingress)
    return a_service_spec("web", replicas=replicas, endpoint=EndpointSpec(ports=(port,)))


async def running(swarm: House, spec: ServiceSpec) -> tuple[Agent, Routes]:
    """Run a service of two tasks on one agent, with one gateway that has confirmed it."""
    agent = await swarm.start_agent("w1")
    await swarm.create(spec)
    gateway = swarm.watch_routes(confirms=False)
    await eventually(lambda: len(gateway.backends(PORT)) == 2)
    await gateway.confirm(swarm)
    return agent, gateway


async def scale(swarm: House, replicas: int) -> TaskId:
    """Scale the service down to so many and return the task that is unwanted now."""
    await swarm.update("web", lambda spec: _replace(spec, mode=Replicated(replicas=replicas)))
    found: list[TaskId] = []

    def unwanted() -> bool:
        found[:] = [t.id for t in swarm.store.state.tasks.values() if t.desired_state > TaskState.RUNNING]
        return bool(found)

    await eventually(unwanted)
    return found[0]


def told(agent: Agent, task: TaskId) -> bool:
    """Tell whether the agent was told that a task is unwanted."""
    return any(
        assigned.task.id == task and assigned.task.desired_state > TaskState.RUNNING
        for item in agent.assignments
        for assigned in item.tasks
    )


def test_a_task_is_told_to_stop_only_when_the_gateway_has_confirmed_that_it_drains(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent, gateway = await running(swarm, published(2))
            task = await scale(swarm, 1)
            await eventually(lambda: len(gateway.backends(PORT)) == 1)
            draining = [b.task_id for b in gateway.routes[f"{PORT}/tcp"].backends if b.draining]
            assert draining == [task]
            for _ in range(20):
                await asyncio.sleep(0)
            assert not told(agent, task)
            began = asyncio.get_running_loop().time()
            await gateway.confirm(swarm)
            await eventually(lambda: told(agent, task))
            assert asyncio.get_running_loop().time() - began < 1.0, "the acknowledgement let it go, not the time"

    run_async(scene())


def test_a_gateway_that_never_confirms_delays_a_stop_by_three_seconds_at_most(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent, _ = await running(swarm, published(2))
            began = asyncio.get_running_loop().time()
            task = await scale(swarm, 1)
            await eventually(lambda: told(agent, task))
            assert 2.5 < asyncio.get_running_loop().time() - began < 4.5

    run_async(scene())


def test_open_connections_get_the_drain_time_of_their_port(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent, gateway = await running(swarm, published(2, IngressConfig(drain_s=60.0)))
            task = await scale(swarm, 1)
            await eventually(lambda: len(gateway.backends(PORT)) == 1)
            await gateway.confirm(swarm, **{task: 2})
            await gateway.confirm(swarm, **{task: 1})
            assert not told(agent, task)
            await gateway.confirm(swarm, **{task: 0})
            await eventually(lambda: told(agent, task))

    run_async(scene())


def test_an_agent_that_registers_anew_is_not_told_before_the_gateways(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent, gateway = await running(swarm, published(2, IngressConfig(drain_s=60.0)))
            task = await scale(swarm, 1)
            await eventually(lambda: len(gateway.backends(PORT)) == 1)
            await gateway.confirm(swarm, **{task: 2})
            again = Agent(swarm, "w1")
            again.session = agent.session
            again.obeys = False
            swarm.tasks.spawn("w1-again", again.run())
            await eventually(lambda: again.assignments)
            assert again.tasks[task].desired_state is TaskState.RUNNING
            await gateway.confirm(swarm, **{task: 0})
            await eventually(lambda: told(again, task))

    run_async(scene())


def test_a_task_without_a_published_port_is_told_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent = await swarm.start_agent("w1")
            swarm.watch_routes(confirms=False)
            await swarm.create(a_service_spec("web", replicas=2))
            await eventually(lambda: len(swarm.running()) == 2)
            agent.obeys = False
            began = asyncio.get_running_loop().time()
            task = await scale(swarm, 1)
            await eventually(lambda: told(agent, task))
            assert asyncio.get_running_loop().time() - began < 1.5

    run_async(scene())
