"""The dispatcher over an in-memory bus: from a user's request to running tasks and routes, and what happens when things go away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services.kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from services.kit.messages import control, logs, session
from services.kit.model.ids import NodeId, ServiceId, SessionId, TaskId
from services.kit.model.objects import ManagerPeer, TaskStatus
from services.kit.model.specs import EndpointSpec, PortConfig, Replicated, ServiceSpec
from services.kit.model.states import LogStream, NodeState, TaskState
from tests.support.convergence import a_service_spec
from tests.support.dispatching import house, wait_for_leader
from tests.support.running import eventually, run_async

_replace = msgspec.structs.replace


def published(name: str = "web", replicas: int = 3, port: int = 8080) -> ServiceSpec:
    endpoint = EndpointSpec(ports=(PortConfig(target_port=80, published_port=port),))
    return a_service_spec(name, replicas=replicas, endpoint=endpoint)


def scaled(replicas: int) -> Callable[[ServiceSpec], ServiceSpec]:
    return lambda spec: _replace(spec, mode=Replicated(replicas=replicas))


def test_a_service_runs_on_the_agents_and_its_port_leads_to_its_tasks(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            routes = swarm.watch_routes()
            agents = [await swarm.start_agent(name) for name in ("n1", "n2", "n3")]
            await swarm.create(published())
            await eventually(lambda: len(swarm.running()) == 3)
            assert sorted(str(task.node_id) for task in swarm.running()) == ["n1", "n2", "n3"]
            assert {len(agent.tasks) for agent in agents} == {1}
            await eventually(lambda: len(routes.backends(8080)) == 3)
            assert {backend.addr for backend in routes.backends(8080)} == {"10.0.0.1"}

            await swarm.update("web", scaled(6))
            await eventually(lambda: len(swarm.running()) == 6)
            await eventually(lambda: len(routes.backends(8080)) == 6)

            await swarm.update("web", scaled(1))
            await eventually(lambda: len(routes.backends(8080)) == 1 and len(swarm.store.state.tasks) == 1)

            statuses = await swarm.call(control.SERVICE_STATUSES, control.StatusesRequest())
            assert [(status.desired, status.running) for status in statuses.statuses] == [(1, 1)]

            await swarm.call(control.REMOVE_SERVICE, control.RemoveServiceRequest(service_id=ServiceId("web")))
            await eventually(lambda: not swarm.store.state.tasks and not routes.routes)
            await eventually(lambda: not any(agent.tasks for agent in agents))

    run_async(scene())


def test_assignments_come_full_once_and_then_only_as_changes(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent = await swarm.start_agent("n1")
            await swarm.create(a_service_spec("web", replicas=2))
            await eventually(lambda: len(swarm.running()) == 2)
            await swarm.update("web", scaled(3))
            await eventually(lambda: len(swarm.running()) == 3)
            assert [item.full for item in agent.assignments] == [True] + [False] * (len(agent.assignments) - 1)
            assert sum(len(item.tasks) for item in agent.assignments) == 3, "a pure change of status was pushed"
            assert sum(len(item.specs) for item in agent.assignments) == 1, "a template was sent twice"

    run_async(scene())


def test_a_silent_node_is_down_and_its_tasks_run_elsewhere(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path, period_s=0.1) as swarm:
            await wait_for_leader(swarm)
            first, _ = await swarm.start_agent("n1"), await swarm.start_agent("n2")
            await swarm.create(a_service_spec("web", replicas=4))
            await eventually(lambda: len(swarm.running()) == 4)
            first.beats = False
            first.obeys = False
            await eventually(lambda: swarm.node_state("n1") is NodeState.DOWN)
            await eventually(lambda: [task.node_id for task in swarm.running()] == ["n2"] * 4)
            await eventually(lambda: first.errors)
            assert isinstance(first.errors[0], InvalidArgument)

    run_async(scene())


def test_a_node_that_registers_again_gets_another_session_and_its_old_streams_end(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            first = await swarm.start_agent("n1")
            second = await swarm.start_agent("n1")
            assert first.session != second.session
            await eventually(lambda: first.errors)
            with pytest.raises(InvalidArgument):
                await first.call(session.HEARTBEAT, session.Heartbeat(session_id=first.session))

    run_async(scene())


def test_only_nodes_of_the_swarm_register_and_not_too_often(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            for _ in range(3):
                agent = await swarm.start_agent("n1")
                assert not agent.errors
            refused = await swarm.start_agent("n1")
            assert isinstance(refused.errors[0], Unavailable)
            swarm.add_node("n2")
            stranger = swarm.agents["n1"]
            stranger.name = "nobody"
            await stranger.run()
            assert isinstance(stranger.errors[-1], NotFound)
            with pytest.raises(NotFound):
                await stranger.call(session.HEARTBEAT, session.Heartbeat(session_id=SessionId("x")))

    run_async(scene())


def test_a_node_cannot_report_about_another_nodes_task(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            first, second = await swarm.start_agent("n1"), await swarm.start_agent("n2")
            await swarm.create(a_service_spec("web", replicas=2))
            await eventually(lambda: len(swarm.running()) == 2)
            foreign = next(iter(second.tasks))
            lie = session.StatusUpdate(task_id=foreign, status=TaskStatus(state=TaskState.FAILED))
            with pytest.raises(PermissionDenied):
                await first.report(lie)
            assert swarm.store.state.tasks[foreign].status.state is TaskState.RUNNING
            unknown = session.StatusUpdate(task_id=TaskId("gone"), status=TaskStatus(state=TaskState.FAILED))
            await first.report(unknown)

    run_async(scene())


def test_a_status_that_would_go_back_is_dropped(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent = await swarm.start_agent("n1")
            await swarm.create(a_service_spec("web"))
            await eventually(lambda: len(swarm.running()) == 1)
            task = swarm.running()[0]
            await agent.report(
                session.StatusUpdate(task_id=task.id, status=_replace(task.status, state=TaskState.PREPARING))
            )
            assert swarm.running()[0].status.state is TaskState.RUNNING
            assert swarm.running()[0].status.applied_by == "manager"

    run_async(scene())


def test_a_failed_task_is_replaced_in_its_slot(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent = await swarm.start_agent("n1")
            spec = a_service_spec("web", replicas=2)
            task_spec = _replace(spec.task, restart=_replace(spec.task.restart, delay_s=0.05))
            await swarm.create(_replace(spec, task=task_spec))
            await eventually(lambda: len(swarm.running()) == 2)
            failed = swarm.running()[0]
            await agent.report(
                session.StatusUpdate(task_id=failed.id, status=_replace(failed.status, state=TaskState.FAILED))
            )
            await eventually(lambda: len(swarm.running()) == 2)
            assert failed.id not in {task.id for task in swarm.running()}
            assert sorted(task.slot for task in swarm.running()) == [1, 2]

    run_async(scene())


def test_losing_leadership_ends_everything_with_the_leaders_address(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent = await swarm.start_agent("n1")
            await swarm.create(a_service_spec("web"))
            await eventually(lambda: len(swarm.running()) == 1)
            swarm.store.follow_leader(ManagerPeer(node_id=NodeId("other"), addr="10.0.0.2:4242"))
            await eventually(lambda: agent.errors)
            error = agent.errors[0]
            assert isinstance(error, Unavailable)
            assert (error.details.leader, error.details.leader_addr) == ("other", "10.0.0.2:4242")
            with pytest.raises(Unavailable) as refused:
                await swarm.create(a_service_spec("late"))
            assert refused.value.details.leader == "other"
            with pytest.raises(Unavailable):
                await swarm.call(control.LIST_SERVICES, control.ListRequest())
            stale = await swarm.call(control.LIST_SERVICES, control.ListRequest(stale=True))
            assert [service.spec.annotations.name for service in stale.services] == ["web"]

            swarm.store.follow_leader(None)
            await eventually(lambda: swarm.node_state("n1") is NodeState.UNKNOWN)
            await swarm.start_agent("n1")
            await eventually(lambda: swarm.node_state("n1") is NodeState.READY)
            assert len(swarm.running()) == 1, "a change of leader restarted a task"

    run_async(scene())


def test_the_control_api_says_what_is_wrong(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            first = await swarm.create(published())
            with pytest.raises(AlreadyExists):
                await swarm.create(published("WEB", port=0))
            with pytest.raises(InvalidArgument, match="8080/tcp is already published by service 'web'"):
                await swarm.create(published("other"))
            bad = published("-bad-", replicas=-1, port=99_999)
            with pytest.raises(InvalidArgument) as refused:
                await swarm.create(bad)
            paths = {problem.path for problem in refused.value.problems}
            assert paths == {"annotations.name", "mode.replicas", "endpoint.ports[0].published_port"}
            with pytest.raises(NotFound, match="did you mean 'web'"):
                await swarm.call(control.GET_SERVICE, control.GetRequest(ref="wbe"))
            old = control.UpdateServiceRequest(service_id=first.service.id, version=1, spec=first.service.spec)
            with pytest.raises(Conflict, match="out of sequence"):
                await swarm.call(control.UPDATE_SERVICE, old)
            fresh = (await swarm.call(control.GET_SERVICE, control.GetRequest(ref="web"))).service
            back = control.UpdateServiceRequest(service_id=fresh.id, version=fresh.meta.version, rollback=True)
            with pytest.raises(FailedPrecondition):
                await swarm.call(control.UPDATE_SERVICE, back)

    run_async(scene())


def test_the_same_request_twice_makes_one_service(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            first = await swarm.create(a_service_spec("web"), request_id="r1")
            again = await swarm.create(a_service_spec("web"), request_id="r1")
            assert first.service.id == again.service.id
            assert len(swarm.store.state.services) == 1

    run_async(scene())


def test_the_cluster_is_shown_without_keys_and_its_tokens_rotate(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            cluster = (await swarm.call(control.GET_CLUSTER, control.GetRequest(ref="default"))).cluster
            request = control.UpdateClusterRequest(
                version=cluster.meta.version, spec=cluster.spec, rotate_worker_token=True
            )
            rotated = (await swarm.call(control.UPDATE_CLUSTER, request)).cluster
            assert rotated.root_ca.join_tokens.worker.startswith("SWMTKN-1-")
            assert rotated.root_ca.join_tokens.manager == cluster.root_ca.join_tokens.manager
            assert rotated.root_ca.ca_key == b""

    run_async(scene())


def test_a_removed_node_is_revoked_and_its_session_ends(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            agent = await swarm.start_agent("n1")
            await swarm.create(a_service_spec("web"))
            await eventually(lambda: len(swarm.running()) == 1)
            with pytest.raises(FailedPrecondition):
                await swarm.call(control.REMOVE_NODE, control.RemoveNodeRequest(node_id=NodeId("n1")))
            await swarm.call(control.REMOVE_NODE, control.RemoveNodeRequest(node_id=NodeId("n1"), force=True))
            await eventually(lambda: agent.errors)
            cluster = swarm.store.state.cluster
            assert cluster is not None
            assert [revoked.node_id for revoked in cluster.revoked] == ["n1"]
            await eventually(
                lambda: all(
                    t.status.state is TaskState.ORPHANED or t.node_id is None for t in swarm.store.state.tasks.values()
                )
            )

    run_async(scene())


def test_logs_come_from_the_nodes_and_a_node_that_is_away_is_named(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path, period_s=0.2) as swarm:
            await wait_for_leader(swarm)
            agents = {name: await swarm.start_agent(name) for name in ("n1", "n2")}
            created = await swarm.create(a_service_spec("web", replicas=2))
            await eventually(lambda: len(swarm.running()) == 2)
            agents["n2"].beats = False
            agents["n2"].obeys = False
            await eventually(lambda: swarm.node_state("n2") is NodeState.DOWN)
            request = logs.SubscribeLogs(selector=logs.LogSelector(service_ids=(created.service.id,)))
            batches: list[logs.LogBatch] = []

            async def read() -> None:
                async with swarm.connection.open(logs.SUBSCRIBE, request, meta=swarm.user) as items:
                    batches.extend([item async for item in items])

            reading = swarm.tasks.spawn("reader", read())
            await eventually(lambda: agents["n1"].log_requests)
            asked = agents["n1"].log_requests[-1]
            lines = tuple(
                logs.LogLine(
                    task_id=task_id,
                    node_id=NodeId("n1"),
                    service_id=created.service.id,
                    timestamp=1.0,
                    stream=LogStream.STDOUT,
                    data=b"hello",
                )
                for task_id in asked.task_ids
            )
            batch = logs.PublishLogs(subscription_id=asked.subscription_id, lines=lines, done=True)
            await agents["n1"].call(logs.PUBLISH, batch)
            await reading
            assert {line.data for item in batches for line in item.lines} == {b"hello"}
            assert [name for item in batches for name in item.missing] == ["n2"]
            with pytest.raises(NotFound):
                await agents["n1"].call(logs.PUBLISH, batch)

    run_async(scene())


def test_watchers_see_every_change_in_order_and_can_go_on_from_a_version(tmp_path: Path) -> None:
    async def scene() -> None:
        async with house(tmp_path) as swarm:
            await wait_for_leader(swarm)
            seen: list[control.ObjectEvents] = []

            async def watch(version: int, into: list[control.ObjectEvents]) -> None:
                request = control.WatchObjects(tables=("service",), version=version)
                async with swarm.connection.open(control.WATCH, request, meta=swarm.user) as items:
                    async for item in items:
                        into += (item,)

            swarm.tasks.spawn("watcher", watch(0, seen))
            await eventually(lambda: seen)
            await swarm.create(published("one", port=0))
            await swarm.create(published("two", port=0))
            await eventually(lambda: sum(len(item.events) for item in seen) == 4)
            actions = [event.action for item in seen for event in item.events]
            assert sorted(actions) == ["create", "create", "update", "update"]
            assert [item.version for item in seen] == sorted({item.version for item in seen})
            again: list[control.ObjectEvents] = []
            swarm.tasks.spawn("late", watch(seen[0].version, again))
            await eventually(lambda: sum(len(item.events) for item in again) == 4)
            assert again == seen

    run_async(scene())
