"""The client against a scripted control server with the real state behind it, over the in-memory bus."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from services.client.client import Client
from services.client.convergence import Progress, Stage
from services.client.line import NobodyListens
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    Details,
    FailedPrecondition,
    NotFound,
    Unavailable,
)
from services.kit.messages.logs import LogBatch, LogLine
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Service, Task, UpdateStatus
from services.kit.model.specs import Annotations, Replicated, RestartPolicy, ServiceSpec
from services.kit.model.states import Availability, LogStream, RestartCondition, TaskState, UpdateState
from services.kit.state.transaction import update
from swarmbus import service_spec
from tests.support.control_server import ControlServer
from tests.support.running import eventually, run_async

SOCKET = "/run/control.sock"
NOT_RUN = Unavailable("no leader", Details(retry_ms=1))
PERHAPS_RUN = Unavailable("the connection was lost", Details(maybe_executed=True, retry_ms=1))


def web(replicas: int = 2) -> ServiceSpec:
    return service_spec("web", command=("run",), replicas=replicas)


@asynccontextmanager
async def swarm(*, timeout_s: float = 5.0) -> AsyncIterator[tuple[Client, ControlServer, MemoryNetwork]]:
    network = MemoryNetwork()
    server, bus, own = ControlServer(), MemoryBus(network), MemoryBus(network)
    await server.listen(bus, SOCKET)
    try:
        async with Client(SOCKET, timeout_s=timeout_s, bus=own) as client:
            yield client, server, network
    finally:
        await own.close()
        await bus.close()


def run(work: Callable[[Client, ControlServer, MemoryNetwork], Coroutine[Any, Any, None]], **settings: float) -> None:
    async def main() -> None:
        async with swarm(**settings) as (client, server, network):
            await work(client, server, network)

    run_async(main())


def test_a_service_is_created_read_scaled_listed_and_removed() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        created = await client.services.create(web())
        assert (await client.services.get("web")).id == created.id
        assert (await client.services.get(created.id[:5])).id == created.id
        assert (await client.services.scale("web", 3)).spec.mode == Replicated(replicas=3)
        assert [s.running for s in await client.services.statuses((created.id,))] == [3]
        assert len(await client.services.tasks("web")) == 3
        await client.services.remove("web")
        assert await client.services.list() == ()
        with pytest.raises(NotFound):
            await client.services.get("web")

    run(work)


def test_a_call_that_did_not_run_is_repeated() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.refuse_before["control.create_service"] = deque([NOT_RUN, NOT_RUN])
        await client.services.create(web())
        assert server.calls["control.create_service"] == 3

    run(work)


def test_a_create_repeated_after_an_unknown_outcome_creates_one_service() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.refuse_after["control.create_service"] = deque([PERHAPS_RUN])
        created = await client.services.create(web())
        assert server.calls["control.create_service"] == 2
        assert [service.id for service in server.state.services.values()] == [created.id]

    run(work)


def test_a_name_that_is_taken_is_told_at_once() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        await client.services.create(web())
        with pytest.raises(AlreadyExists):
            await client.services.create(web())
        assert server.calls["control.create_service"] == 2

    run(work)


def test_an_update_with_an_unknown_outcome_is_looked_up_and_not_made_twice() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        await client.services.create(web())
        server.refuse_after["control.update_service"] = deque([PERHAPS_RUN])
        forced = await client.services.update("web", _force)
        assert forced.spec.task.force_update == 1
        assert server.calls["control.update_service"] == 1

    run(work)


def _force(spec: ServiceSpec) -> ServiceSpec:
    return replace(spec, task=replace(spec.task, force_update=spec.task.force_update + 1))


def test_an_update_that_meets_a_conflict_is_made_on_what_is_there_now() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        service = await client.services.create(web())
        seen: list[int] = []

        def change(spec: ServiceSpec) -> ServiceSpec:
            assert isinstance(spec.mode, Replicated)
            seen.append(spec.mode.replicas)
            if len(seen) == 1:
                now = server.state.services[service.id]
                server.commit(update(replace(now, spec=replace(now.spec, mode=Replicated(replicas=9)))))
            return replace(spec, annotations=Annotations(name="web", labels={"a": "b"}))

        changed = await client.services.update("web", change)
        assert seen == [2, 9]
        assert changed.spec.mode == Replicated(replicas=9)
        assert changed.spec.annotations.labels == {"a": "b"}

    run(work)


def test_conflicts_without_end_are_given_up() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        await client.services.create(web())
        server.refuse_before["control.update_service"] = deque(Conflict("moved on") for _ in range(50))
        with pytest.raises(Conflict):
            await client.services.scale("web", 5)
        assert server.calls["control.update_service"] == 10

    run(work)


def test_a_removal_with_an_unknown_outcome_that_was_done_succeeds() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        await client.services.create(web())
        server.refuse_after["control.remove_service"] = deque([PERHAPS_RUN])
        await client.services.remove("web")
        assert server.calls["control.remove_service"] == 2
        assert not server.state.services

    run(work)


def test_without_a_leader_a_call_ends_with_unavailable_when_time_is_up() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.refuse_before["control.create_service"] = deque([NOT_RUN] * 100_000)
        with pytest.raises(Unavailable):
            await client.services.create(web())
        assert server.calls["control.create_service"] > 1

    run(work, timeout_s=0.05)


def test_a_socket_that_nobody_listens_on_is_told_at_once() -> None:
    async def main() -> None:
        bus = MemoryBus(MemoryNetwork())
        with pytest.raises(NobodyListens, match="/nowhere"):
            async with Client("/nowhere.sock", bus=bus):
                pass
        await bus.close()

    run_async(main())


def test_a_broken_connection_is_dialled_again() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        await client.services.create(web())
        network.cut("", "")
        assert [service.spec.annotations.name for service in await client.services.list()] == ["web"]

    run(work)


def test_waiting_ends_when_every_task_of_the_new_version_runs() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.runs_tasks = False
        service = await client.services.create(web())
        steps: list[Progress] = []
        waiting = asyncio.get_running_loop().create_task(client.services.wait("web", on_progress=steps.append))
        first = await _added(server, service, 1, waiting, steps)
        server.set_task(first, TaskState.RUNNING)
        server.add_task(service, 2, TaskState.RUNNING)
        end = await waiting
        assert (end.stage, end.done, end.desired) == (Stage.CONVERGED, 2, 2)
        assert [step.done for step in steps] == sorted(step.done for step in steps)

    run(work)


async def _added(
    server: ControlServer, service: Service, slot: int, waiting: asyncio.Task[Progress], steps: list[Progress]
) -> Task:
    await eventually(lambda: steps)
    assert not waiting.done()
    task = server.add_task(
        service, slot, TaskState.PENDING, message="no suitable node (insufficient memory on 2 nodes)"
    )
    await eventually(lambda: any(slot.reason for step in steps for slot in step.slots))
    return task


def test_waiting_starts_anew_when_the_watch_breaks() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.runs_tasks = False
        service = await client.services.create(web(1))
        steps: list[Progress] = []
        waiting = asyncio.get_running_loop().create_task(client.services.wait("web", on_progress=steps.append))
        await eventually(lambda: steps)
        network.cut("", "")
        server.add_task(service, 1, TaskState.RUNNING)
        assert (await waiting).stage is Stage.CONVERGED
        assert server.calls["control.watch"] == 2

    run(work)


def test_a_task_that_falls_while_it_is_verified_is_waited_for_again() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.runs_tasks = False
        service = await client.services.create(web(1))
        task = server.add_task(service, 1, TaskState.RUNNING)
        stages: list[Stage] = []
        async with aclosing(client.services.progress("web", stable_s=0.05)) as steps:
            async for step in steps:
                stages.append(step.stage)
                if stages == [Stage.VERIFYING]:
                    server.set_task(task, TaskState.FAILED, error="exit status 1")
                elif stages == [Stage.VERIFYING, Stage.WORKING]:
                    server.add_task(service, 1, TaskState.RUNNING)
        assert stages == [Stage.VERIFYING, Stage.WORKING, Stage.VERIFYING, Stage.CONVERGED]

    run(work)


def test_a_paused_update_ends_the_wait_with_its_reason() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        service = await client.services.create(web())
        paused = UpdateStatus(state=UpdateState.PAUSED, message="task failed")
        server.commit(update(replace(server.state.services[service.id], update_status=paused)))
        with pytest.raises(FailedPrecondition, match="paused: task failed"):
            await client.services.wait("web")

    run(work)


def test_a_task_that_failed_for_good_ends_the_wait() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.runs_tasks = False
        spec = service_spec("once", command=("run",), restart=RestartPolicy(condition=RestartCondition.NONE))
        service = await client.services.create(spec)
        server.add_task(service, 1, TaskState.FAILED, error="exit status 3")
        with pytest.raises(FailedPrecondition, match="exit status 3"):
            await client.services.wait("once")

    run(work)


def test_a_wait_that_lasts_too_long_says_how_far_it_came() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        server.runs_tasks = False
        service = await client.services.create(web())
        server.add_task(service, 1, TaskState.RUNNING)
        with pytest.raises(DeadlineExceeded, match="1 of 2"):
            await client.services.wait("web", timeout_s=0.05)

    run(work)


def test_a_watch_yields_changes_with_their_objects() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        changes = client.watch(tables=["service"])
        async with aclosing(changes):
            arriving = asyncio.get_running_loop().create_task(anext(changes))
            await eventually(lambda: server.calls["control.watch"])
            service = await client.services.create(web())
            change = await arriving
        assert change.action == "create"
        assert change.object.id == service.id

    run(work)


def test_logs_arrive_line_by_line_and_missing_nodes_are_named() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        service = await client.services.create(web(1))
        task = (await client.services.tasks("web"))[0]
        assert task.node_id is not None
        line = LogLine(
            task_id=task.id,
            node_id=task.node_id,
            service_id=ServiceId(service.id),
            slot=1,
            timestamp=1.0,
            stream=LogStream.STDOUT,
            data=b"hello",
        )
        server.log_batches = [LogBatch(lines=(line,)), LogBatch(missing=("beta",))]
        assert [found.data async for found in client.logs(services=["web"])] == [b"hello"]
        assert [batch.missing async for batch in client.log_batches(services=["web"])] == [(), ("beta",)]

    run(work)


def test_a_node_is_drained_and_a_ready_one_is_not_removed_without_force() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        node = await client.nodes.set_availability("beta", Availability.DRAIN)
        assert node.spec.availability is Availability.DRAIN
        with pytest.raises(FailedPrecondition):
            await client.nodes.remove("beta")
        await client.nodes.remove("beta", force=True)
        assert [n.description.hostname for n in await client.nodes.list()] == ["alpha"]

    run(work)


def test_join_tokens_are_rotated_by_role() -> None:
    async def work(client: Client, server: ControlServer, network: MemoryNetwork) -> None:
        tokens = (await client.clusters.rotate_tokens(worker=True)).root_ca.join_tokens
        assert (tokens.worker, tokens.manager) == ("SWMTKN-1-w-new", "SWMTKN-1-m")

    run(work)
