"""The agent over an in-memory bus, against a scripted dispatcher: sessions, assignments, statuses, restarts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.kit.errors import Unavailable
from services.kit.messages.logs import LogOptions, LogRequest
from services.kit.messages.session import Assignments, SessionMessage
from services.kit.model.ids import NodeId, SecretId, SubscriptionId
from services.kit.model.objects import ManagerPeer, Secret, TaskStatus
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    EndpointSpec,
    FileTarget,
    GenericResource,
    HealthCheck,
    PortConfig,
    SecretReference,
    SecretSpec,
)
from services.kit.model.states import Role, TaskState
from services.kit.runtime.clock import SystemClock
from tests.support.agents import NODE, described, make_spec, make_task, one_agent, one_world, task_id
from tests.support.running import eventually, run_async

ONE = task_id(1)


def test_the_agent_is_ready_when_its_first_session_is_registered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world:
            await world.shut()
            async with world.agent():
                assert not world.node.ready.is_set()
                await world.open()
                await eventually(world.node.ready.is_set)
                assert len(world.dispatcher.registrations) == 1
                await eventually(lambda: world.dispatcher.beats == 1)

    run_async(scenario())


def test_the_node_describes_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path, generic_resources=("SSD=2", "GPU=b", "GPU=a")) as (_, dispatcher):
            await eventually(lambda: dispatcher.registrations)
            description = described(dispatcher)
            assert (description.hostname, description.platform.os) == ("worker-1", "linux")
            assert description.drivers == ("fake",)
            assert description.resources.nano_cpus > 0
            assert description.resources.memory_bytes > 0
            assert [(r.kind, r.count, r.names) for r in description.resources.generic] == [
                ("GPU", 0, ("b", "a")),
                ("SSD", 2, ()),
            ]
            assert dispatcher.registrations[0].addr == "127.0.0.1"

    run_async(scenario())


def test_a_task_runs_through_its_states_to_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(), specs=(make_spec(run_for="0.7", exit_code="3"),))
            status = await dispatcher.saw(ONE, TaskState.FAILED)
            assert (status.exit_code, status.error) == (3, "task: non-zero exit (3)")
            states = [status.state for status in dispatcher.history[ONE]]
            assert states == sorted(states), "states only move forward"
            assert TaskState.RUNNING in states

    run_async(scenario())


def test_a_finished_task_is_complete(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(), specs=(make_spec(run_for="0.01"),))
            assert (await dispatcher.saw(ONE, TaskState.COMPLETE)).exit_code == 0

    run_async(scenario())


def test_a_task_that_shall_stop_stops_and_one_that_is_removed_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (app, dispatcher):
            spec = make_spec()
            dispatcher.assign(make_task(), specs=(spec,))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            dispatcher.assign(make_task(desired=TaskState.SHUTDOWN))
            assert (await dispatcher.saw(ONE, TaskState.SHUTDOWN)).exit_code == 128 + 15
            dispatcher.assign(removed=(ONE,))
            await eventually(lambda: not app.tasks.describe())
            assert not list((tmp_path / "worker" / "fake").iterdir())

    run_async(scenario())


def test_a_task_waits_at_ready_until_it_shall_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (app, dispatcher):
            dispatcher.assign(make_task(desired=TaskState.READY), specs=(make_spec(),))
            await dispatcher.saw(ONE, TaskState.READY)
            assert app.tasks.describe()[0]["state"] == "READY"
            dispatcher.assign(make_task(desired=TaskState.RUNNING))
            await dispatcher.saw(ONE, TaskState.RUNNING)

    run_async(scenario())


def test_what_cannot_run_is_rejected_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(
                *(make_task(n, version=n) for n in (1, 2, 3, 4)),
                specs=(
                    make_spec("nosuch", version=1),
                    make_spec(version=2, container=ContainerSpec(env=("A={{.Task.Nonsense}}",))),
                    make_spec(version=3, fail_prepare="no room"),
                    make_spec(version=4, colour="red"),
                ),
            )
            errors = [(await dispatcher.saw(task_id(n), TaskState.REJECTED)).error for n in (1, 2, 3, 4)]
            assert errors == [
                "this node has no driver 'nosuch', it has fake",
                "template 'A={{.Task.Nonsense}}': there is no field .Task.Nonsense",
                "no room",
                "the fake driver does not support driver_options.colour",
            ]
            dispatcher.assign(removed=tuple(task_id(n) for n in (1, 2, 3, 4)))

    run_async(scenario())


def test_a_start_that_fails_fails_the_task(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(), specs=(make_spec(fail_start="bad luck"),))
            assert (await dispatcher.saw(ONE, TaskState.FAILED)).error == "bad luck"

    run_async(scenario())


def test_running_is_reported_only_after_the_first_healthy_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (app, dispatcher):
            dispatcher.assign(
                make_task(1), make_task(2, version=2), specs=(make_spec(ready_after="60"), make_spec(version=2))
            )
            await dispatcher.saw(task_id(2), TaskState.RUNNING)
            await eventually(lambda: app.tasks.describe()[0]["verb"] == "ready")
            assert TaskState.RUNNING not in {status.state for status in dispatcher.history[ONE]}

    run_async(scenario())


def test_a_check_holds_back_running_and_an_unhealthy_task_fails_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        check = HealthCheck(
            test=("CMD", "am I well"), interval_s=0.05, retries=2, start_period_s=60, start_interval_s=0.05
        )
        container = ContainerSpec(health_check=check)
        async with one_agent(tmp_path) as (_, dispatcher):
            spec = make_spec(container=container, ready_after="0.2", unhealthy_after="2")
            dispatcher.assign(make_task(), specs=(spec,))
            running = await dispatcher.saw(ONE, TaskState.RUNNING)
            starting = await dispatcher.saw(ONE, TaskState.STARTING)
            assert running.timestamp - starting.timestamp > 0.15
            failed = await dispatcher.saw(ONE, TaskState.FAILED)
            assert failed.error == "unhealthy: exit code 1: am I well"

    run_async(scenario())


def test_a_task_that_never_is_healthy_fails_without_having_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        check = HealthCheck(test=("CMD", "am I well"), interval_s=0.05, retries=2)
        container = ContainerSpec(health_check=check)
        async with one_agent(tmp_path) as (_, dispatcher):
            spec = make_spec(container=container, unhealthy_after="1e-9")
            dispatcher.assign(make_task(), specs=(spec,))
            failed = await dispatcher.saw(ONE, TaskState.FAILED)
            assert failed.error == "never healthy: exit code 1: am I well"
            assert TaskState.RUNNING not in {status.state for status in dispatcher.history[ONE]}

    run_async(scenario())


def test_a_check_that_means_nothing_rejects_the_task(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            container = ContainerSpec(health_check=HealthCheck(test=("PING",)))
            dispatcher.assign(make_task(), specs=(make_spec(container=container),))
            assert "health check" in (await dispatcher.saw(ONE, TaskState.REJECTED)).error

    run_async(scenario())


def test_a_dealt_resource_is_waited_for_until_its_last_holder_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path, generic_resources=("GPU=a",)) as (_, dispatcher):
            dealt = (GenericResource(kind="GPU", names=("a",)),)
            first, second = (msgspec.structs.replace(make_task(n), generic=dealt) for n in (1, 2))
            dispatcher.assign(first, specs=(make_spec(),))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            dispatcher.assign(second)
            await eventually(
                lambda: "still in the hands" in dispatcher.history.get(task_id(2), [TaskStatus()])[-1].error
            )
            dispatcher.assign(msgspec.structs.replace(first, desired_state=TaskState.SHUTDOWN))
            running = await dispatcher.saw(task_id(2), TaskState.RUNNING)
            assert running.timestamp >= dispatcher.status(ONE).timestamp
            assert running.error == ""

    run_async(scenario())


def test_ports_of_a_task_are_reported(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            endpoint = EndpointSpec(ports=(PortConfig(name="web", target_port=80, published_port=8080),))
            dispatcher.assign(make_task(), specs=(make_spec(endpoint=endpoint),))
            status = await dispatcher.saw(ONE, TaskState.RUNNING)
            assert [(port.name, port.target_port) for port in status.ports] == [("web", 80)]

    run_async(scenario())


def test_a_secret_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        reference = SecretReference(secret_id=SecretId("secret"), secret_name="token", target=FileTarget(name="token"))
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(), specs=(make_spec(container=ContainerSpec(secrets=(reference,))),))
            await eventually(
                lambda: any(s.error == "secret token not delivered yet" for s in dispatcher.history.get(ONE, ()))
            )
            secret = Secret(id=SecretId("secret"), spec=SecretSpec(annotations=Annotations(name="token"), data=b"x"))
            dispatcher.assign(secrets=(secret,))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            assert dispatcher.status(ONE).error == ""

    run_async(scenario())


def test_a_restarted_agent_adopts_its_tasks_without_touching_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world:
            async with world.agent():
                world.dispatcher.assign(make_task(1), make_task(2), specs=(make_spec(),))
                await world.dispatcher.saw(task_id(1), TaskState.RUNNING)
                await world.dispatcher.saw(task_id(2), TaskState.RUNNING)
            await world.shut()
            world.dispatcher.history.clear()
            async with world.agent() as app:
                assert [task["state"] for task in app.tasks.describe()] == ["RUNNING", "RUNNING"]
                await eventually(lambda: all(task["verb"] == "wait" for task in app.tasks.describe()))
                await world.open()
                await world.dispatcher.saw(task_id(1), TaskState.RUNNING)
                assert world.dispatcher.state(task_id(2)) is TaskState.RUNNING

    run_async(scenario())


def test_what_ended_while_no_agent_ran_is_reported_by_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world:
            async with world.agent():
                world.dispatcher.assign(make_task(), specs=(make_spec(run_for="0.2", exit_code="7"),))
                await world.dispatcher.saw(ONE, TaskState.RUNNING)
            async with world.agent():
                assert (await world.dispatcher.saw(ONE, TaskState.FAILED)).exit_code == 7

    run_async(scenario())


def test_tasks_that_went_away_while_no_agent_ran_are_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world:
            async with world.agent():
                world.dispatcher.assign(make_task(), specs=(make_spec(),))
                await world.dispatcher.saw(ONE, TaskState.RUNNING)
            world.dispatcher.assign(removed=(ONE,))
            async with world.agent() as app:
                await eventually(lambda: world.node.ready.is_set() and not app.tasks.describe())
                assert not list((tmp_path / "worker" / "fake").iterdir())

    run_async(scenario())


def test_with_its_database_lost_the_agent_finds_its_tasks_through_the_driver(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world:
            async with world.agent():
                world.dispatcher.assign(make_task(1), make_task(2), specs=(make_spec(),))
                await world.dispatcher.saw(task_id(1), TaskState.RUNNING)
                await world.dispatcher.saw(task_id(2), TaskState.RUNNING)
            for path in (tmp_path / "worker").glob("tasks.db*"):
                path.write_bytes(b"nonsense" * 1000)
            running = make_task(1, state=TaskState.RUNNING)
            world.dispatcher.assign(running, removed=(task_id(2),))
            world.dispatcher.history.clear()
            async with world.agent() as app:
                records = tmp_path / "worker" / "fake"
                await eventually(lambda: [path.name for path in records.iterdir()] == [task_id(1)])
                await eventually(lambda: [task["verb"] for task in app.tasks.describe()] == ["wait"])
                world.dispatcher.assign(make_task(1, desired=TaskState.SHUTDOWN))
                await world.dispatcher.saw(task_id(1), TaskState.SHUTDOWN)
            assert (tmp_path / "worker" / "tasks.db.damaged").exists()

    run_async(scenario())


def test_a_lost_session_is_made_again_with_its_old_id(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world, world.agent():
            world.dispatcher.assign(make_task(), specs=(make_spec(),))
            await world.dispatcher.saw(ONE, TaskState.RUNNING)
            world.dispatcher.history.clear()
            world.network.cut("manager", "worker")
            await eventually(lambda: len(world.dispatcher.registrations) == 2)
            assert [request.session_id for request in world.dispatcher.registrations] == ["", "session-1"]
            await world.dispatcher.saw(ONE, TaskState.RUNNING)

    run_async(scenario())


def test_a_session_that_the_dispatcher_forgot_is_replaced_by_a_fresh_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world, world.agent():
            await eventually(lambda: world.dispatcher.beats)
            world.dispatcher.drop_session()
            await eventually(lambda: len(world.dispatcher.registrations) == 2)
            await eventually(lambda: world.dispatcher.beats == 2)

    run_async(scenario())


def test_heartbeats_follow_the_period_that_was_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world:
            world.dispatcher.period_s = 0.02
            async with world.agent():
                await eventually(lambda: world.dispatcher.beats >= 5)
                assert len(world.dispatcher.registrations) == 1

    run_async(scenario())


def test_a_gap_in_the_assignments_brings_the_full_set_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(1), specs=(make_spec(),))
            await dispatcher.saw(task_id(1), TaskState.RUNNING)
            dispatcher.skip()
            dispatcher.assign(make_task(2))
            await dispatcher.saw(task_id(2), TaskState.RUNNING)
            assert dispatcher.assignment_streams == 2
            dispatcher.assign(make_task(3))
            await dispatcher.saw(task_id(3), TaskState.RUNNING)
            assert dispatcher.assignment_streams == 2

    run_async(scenario())


def test_a_task_without_its_template_brings_the_full_set_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            await eventually(lambda: dispatcher.assignment_streams)
            dispatcher.assign(specs=(make_spec(version=9),))
            dispatcher.assign(make_task(1, version=9))
            await dispatcher.saw(task_id(1), TaskState.RUNNING)

    run_async(scenario())


def test_statuses_are_sent_until_they_are_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world, world.agent() as app:
            await eventually(world.node.ready.is_set)
            world.dispatcher.refuse_statuses = Unavailable("not now")
            world.dispatcher.assign(make_task(), specs=(make_spec(run_for="0.01"),))
            await eventually(lambda: len(world.dispatcher.registrations) >= 2)
            await eventually(lambda: app.tasks.describe()[0]["state"] == "COMPLETE")
            assert ONE not in world.dispatcher.history
            world.dispatcher.refuse_statuses = None
            await world.dispatcher.saw(ONE, TaskState.COMPLETE)

    run_async(scenario())


def test_many_changes_become_few_messages(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(*(make_task(n) for n in range(1, 201)), specs=(make_spec(),))
            await eventually(
                lambda: sum(dispatcher.state(task_id(n)) is TaskState.RUNNING for n in range(1, 201)) == 200
            )
            assert len(dispatcher.batches) < 40

    run_async(scenario())


def test_a_new_list_of_managers_reaches_the_supervisor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world, world.agent():
            await eventually(lambda: world.node.managers == [(world.peer,)])
            other = ManagerPeer(node_id=NodeId("o" * 25), addr="other:4242", certificate=b"x")
            world.dispatcher.say(
                SessionMessage(session_id=world.dispatcher.registrations[0].session_id, managers=(world.peer, other))
            )
            await eventually(lambda: world.node.managers[-1] == (world.peer, other))
            assert world.node.nodes, "the node's desired role was passed on"

    run_async(scenario())


def test_a_renewal_costs_no_session_but_a_new_role_or_a_late_renewal_makes_a_new_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world, world.agent():
            now = SystemClock().wall()
            await eventually(world.node.ready.is_set)
            facts = msgspec.structs.replace(world.node.facts, identity_serial=7, not_after=now + 3600)
            world.node.change(facts)
            world.dispatcher.assign(make_task(), specs=(make_spec(),))
            await world.dispatcher.saw(ONE, TaskState.RUNNING)
            assert len(world.dispatcher.registrations) == 1
            world.node.change(msgspec.structs.replace(facts, role=Role.MANAGER))
            await eventually(lambda: len(world.dispatcher.registrations) == 2)
            run_out = msgspec.structs.replace(facts, role=Role.MANAGER, not_after=now - 1)
            world.node.change(run_out)
            await world.node.heard()
            world.node.change(msgspec.structs.replace(run_out, not_after=now + 3600))
            await eventually(lambda: len(world.dispatcher.registrations) == 3)

    run_async(scenario())


def request(number: int, *tasks: int, follow: bool = False, tail: int = -1, closed: bool = False) -> LogRequest:
    return LogRequest(
        subscription_id=SubscriptionId(f"subscription-{number}"),
        task_ids=tuple(task_id(n) for n in tasks),
        options=LogOptions(follow=follow, tail=tail),
        closed=closed,
    )


def test_logs_are_published_whole_and_closed_with_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(1), make_task(2), specs=(make_spec(log_lines="1200", log_line="{n}"),))
            await dispatcher.saw(task_id(1), TaskState.RUNNING)
            await dispatcher.saw(task_id(2), TaskState.RUNNING)
            dispatcher.ask_logs(request(1, 1, 2))
            await eventually(lambda: dispatcher.publications and dispatcher.publications[-1].done)
            for number in (1, 2):
                lines = [line for line in dispatcher.lines if line.task_id == task_id(number)]
                assert [int(line.data) for line in lines] == list(range(1200))
                assert {(line.node_id, line.slot) for line in lines} == {(NODE, number)}
            assert [message.done for message in dispatcher.publications].count(True) == 1

    run_async(scenario())


def test_only_the_last_lines_are_sent_when_a_tail_is_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(), specs=(make_spec(log_lines="100", log_line="{n}"),))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            dispatcher.ask_logs(request(1, 1, tail=3))
            await eventually(lambda: dispatcher.publications and dispatcher.publications[-1].done)
            assert [line.data for line in dispatcher.lines] == [b"97", b"98", b"99"]

    run_async(scenario())


def test_a_follower_gets_new_lines_and_new_tasks_until_it_closes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(
                make_task(1), make_task(2, version=2, desired=TaskState.READY),
                specs=(make_spec(log_lines="50", log_interval="0.01"), make_spec(version=2, log_lines="1")),
            )  # fmt: skip
            await dispatcher.saw(task_id(1), TaskState.RUNNING)
            dispatcher.ask_logs(request(1, 1, 2, follow=True))
            await eventually(lambda: len(dispatcher.lines) == 50)
            dispatcher.assign(make_task(2, version=2))
            await eventually(lambda: len(dispatcher.lines) == 51)
            dispatcher.assign(make_task(3, version=2))
            await dispatcher.saw(task_id(3), TaskState.RUNNING)
            dispatcher.ask_logs(request(1, 3, follow=True))
            await eventually(lambda: len(dispatcher.lines) == 52)
            assert not any(message.done for message in dispatcher.publications)
            dispatcher.ask_logs(request(1, closed=True))

    run_async(scenario())


def test_a_slow_reader_of_logs_costs_bounded_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            dispatcher.assign(make_task(), specs=(make_spec(log_lines="20000", log_line="{n}"),))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            dispatcher.hold_logs.clear()
            dispatcher.ask_logs(request(1, 1))
            dispatcher.assign(make_task(2))
            await dispatcher.saw(task_id(2), TaskState.RUNNING)
            assert not dispatcher.publications, "one batch is under way, the rest waits"
            dispatcher.hold_logs.set()
            await eventually(lambda: dispatcher.publications and dispatcher.publications[-1].done)
            assert [int(line.data) for line in dispatcher.lines] == list(range(20000))
            assert max(len(message.lines) for message in dispatcher.publications) <= 500

    run_async(scenario())


def test_an_unknown_message_out_of_order_is_not_applied(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (app, dispatcher):
            dispatcher.assign(make_task(1), specs=(make_spec(),))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            dispatcher.send(Assignments(full=False, applies_to=77, results_in=78, removed_tasks=(ONE,)))
            await eventually(lambda: dispatcher.assignment_streams == 2)
            assert [task["verb"] for task in app.tasks.describe()] == ["wait"]

    run_async(scenario())


class JumpingClock(SystemClock):
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def wall(self) -> float:
        """Return the time as it was set."""
        return super().wall() + self.ahead_s


def test_a_clock_that_jumps_moves_no_task_and_no_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_world(tmp_path) as world:
            world.clock = clock = JumpingClock()
            dispatcher = world.dispatcher
            dispatcher.period_s = 0.02
            async with world.agent():
                dispatcher.assign(make_task(), specs=(make_spec(),))
                await dispatcher.saw(ONE, TaskState.RUNNING)
                for number, ahead_s in ((2, 86_400.0), (3, -86_400.0)):
                    clock.ahead_s = ahead_s
                    beats = dispatcher.beats
                    await eventually(lambda beats=beats: dispatcher.beats > beats + 3)  # type: ignore[misc]
                    dispatcher.assign(make_task(number))
                    await dispatcher.saw(task_id(number), TaskState.RUNNING)
                dispatcher.assign(*(make_task(number, desired=TaskState.SHUTDOWN) for number in (1, 2, 3)))
                for number in (1, 2, 3):
                    await dispatcher.saw(task_id(number), TaskState.SHUTDOWN)
                    times = [status.timestamp for status in dispatcher.history[task_id(number)]]
                    assert times == sorted(times), "a status is never older than the one before"
                assert len(dispatcher.registrations) == 1

    run_async(scenario())
