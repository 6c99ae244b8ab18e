"""The driver contract: what must hold of every driver (see ``services/agent/drivers/api.py``)."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from services.agent.core.bundle import TaskBundle
from services.agent.drivers.api import (
    AlreadyPrepared,
    AlreadyStarted,
    Command,
    Controller,
    Driver,
    Failed,
    Handle,
    Recovered,
    SupportsExec,
    SupportsHealth,
    SupportsLogs,
    TaskGone,
    Unsupported,
)
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import TaskId
from services.kit.model.specs import PortConfig
from services.kit.model.states import PublishMode
from services.kit.runtime.clock import SystemClock
from tests.conformance.rigs import Bench, Program
from tests.support.running import run_async

FOREVER = Program()
OBEDIENT = Program(lines=1)
"""Its handler stands once it has written its line."""
STUBBORN = Program(lines=1, stubborn=True)
GRACE_S = 5.0
SHORT_GRACE_S = 0.4
AT_ONCE_S = 4.0
KILLED = 128 + 9
CLOCK = SystemClock()


async def prepared(driver: Driver, bundle: TaskBundle) -> Controller:
    controller = await driver.controller(bundle)
    with contextlib.suppress(AlreadyPrepared):
        await controller.prepare()
    return controller


async def start(controller: Controller) -> Handle:
    try:
        return await controller.start()
    except AlreadyStarted as error:
        return error.handle


async def started(driver: Driver, bundle: TaskBundle) -> Controller:
    controller = await prepared(driver, bundle)
    await start(controller)
    return controller


async def held(driver: Driver) -> dict[TaskId, Recovered]:
    return {found.task_id: found async for found in driver.recover()}


async def lines_of(controller: Controller, options: LogOptions | None = None) -> list[str]:
    assert isinstance(controller, SupportsLogs)
    return [line.data.decode() async for batch in controller.logs(options or LogOptions()) for line in batch]


def test_a_task_that_ends_gives_its_exit_code(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            for code in (0, 1, 42, 255):
                before = CLOCK.wall()
                controller = await started(driver, bench.bundle(Program(exit_code=code)))
                end = await controller.wait()
                assert (end.code, end.signal, end.oom, end.ok) == (code, None, False, code == 0)
                assert before - 1 <= end.finished_at <= CLOCK.wall() + 1

    run_async(scenario())


def test_every_verb_may_be_repeated(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await prepared(driver, bench.bundle(OBEDIENT))
            with contextlib.suppress(AlreadyPrepared):
                await controller.prepare()
            handle = await start(controller)
            assert await start(controller) == handle
            await until_it_wrote(controller)
            assert await controller.inspect() == await controller.inspect()
            for _ in range(2):
                await controller.shutdown(GRACE_S)
            first = await controller.wait()
            assert await controller.wait() == first
            assert first.status == bench.rig.stopped_status
            await controller.terminate()
            assert await controller.wait() == first
            assert await start(controller) == handle, "starting what has ended starts nothing"
            assert await controller.wait() == first
            for _ in range(2):
                await controller.remove()
            for _ in range(2):
                await controller.close()

    run_async(scenario())


def test_nothing_runs_before_start(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await prepared(driver, bench.bundle(FOREVER))
            with pytest.raises(TaskGone):
                await controller.inspect()
            with pytest.raises(TaskGone):
                await controller.wait()
            assert not any(found.running for found in (await held(driver)).values())

    run_async(scenario())


def test_stopping_and_removing_succeed_at_every_stage(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            untouched = await driver.controller(bench.bundle(FOREVER))
            ready = await prepared(driver, bench.bundle(FOREVER))
            running = await started(driver, bench.bundle(FOREVER))
            ended = await started(driver, bench.bundle(Program(exit_code=0)))
            await ended.wait()
            for controller in (untouched, ready, running, ended):
                await controller.shutdown(GRACE_S)
                await controller.terminate()
                await controller.remove()
                with pytest.raises(TaskGone):
                    await controller.wait()
            assert not await held(driver)

    run_async(scenario())


def test_removing_a_running_task_ends_it(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(STUBBORN))
            await controller.remove()
            assert not await held(driver)

    run_async(scenario())


def test_a_task_that_obeys_the_stop_signal_is_not_killed(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(OBEDIENT))
            await until_it_wrote(controller)
            begun = CLOCK.monotonic()
            await controller.shutdown(60.0)
            assert CLOCK.monotonic() - begun < AT_ONCE_S
            assert (await controller.wait()).status == bench.rig.stopped_status

    run_async(scenario())


def test_a_task_that_ignores_the_stop_signal_is_killed_after_its_grace_period(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(STUBBORN))
            await until_it_wrote(controller)
            begun = CLOCK.monotonic()
            await controller.shutdown(SHORT_GRACE_S)
            assert SHORT_GRACE_S <= CLOCK.monotonic() - begun < SHORT_GRACE_S + AT_ONCE_S
            assert (await controller.wait()).status == KILLED

    run_async(scenario())


def test_terminate_does_not_wait_for_a_grace_period(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(STUBBORN))
            begun = CLOCK.monotonic()
            await controller.terminate()
            assert CLOCK.monotonic() - begun < AT_ONCE_S
            assert (await controller.wait()).status == KILLED

    run_async(scenario())


def test_whoever_waits_hears_of_the_end(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(FOREVER))
            waits = [asyncio.ensure_future(controller.wait()) for _ in range(3)]
            cancelled = asyncio.ensure_future(controller.wait())
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait({cancelled})
            assert not any(wait.done() for wait in waits)
            await controller.terminate()
            assert {end.status for end in await asyncio.gather(*waits)} == {KILLED}

    run_async(scenario())


@pytest.mark.parametrize("turns", [0, 1, 3, 10])
def test_a_start_that_is_cancelled_can_be_stopped_or_repeated(bench: Bench, turns: int) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            for repeat in (False, True):
                controller = await prepared(driver, bench.bundle(FOREVER))
                beginning = asyncio.ensure_future(controller.start())
                for _ in range(turns):
                    await asyncio.sleep(0)
                beginning.cancel()
                await asyncio.wait({beginning})
                if repeat:
                    await start(controller)
                    await controller.inspect()
                await controller.shutdown(GRACE_S)
                assert not any(found.running for found in (await held(driver)).values())

    run_async(scenario())


def test_logs_are_complete_and_in_order(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(Program(lines=2000, exit_code=0)))
            await controller.wait()
            everything = [f"line {n}" for n in range(2000)]
            assert await lines_of(controller) == everything
            assert await lines_of(controller, LogOptions(tail=3)) == everything[-3:]
            assert await lines_of(controller, LogOptions(tail=0)) == []
            assert await lines_of(controller, LogOptions(since=CLOCK.wall() + 3600)) == []
            assert await lines_of(controller, LogOptions(since=CLOCK.wall() - 3600)) == everything

    run_async(scenario())


def test_a_task_that_ended_well_before_anybody_looked_has_not_failed(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(Program(exit_code=0)))
            await controller.wait()
            if isinstance(controller, SupportsHealth):
                await controller.ready()
            assert (await controller.wait()).ok

    run_async(scenario())


def test_following_a_log_ends_with_the_task(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(Program(lines=100)))
            await until_it_wrote(controller, 100)
            following = asyncio.ensure_future(lines_of(controller, LogOptions(follow=True)))
            await controller.terminate()
            assert await following == [f"line {n}" for n in range(100)]

    run_async(scenario())


def test_a_command_inside_a_task_has_its_own_end(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(FOREVER))
            if not isinstance(controller, SupportsExec):
                pytest.skip("this driver runs no commands inside tasks")
            talking = await controller.open_exec(Command(argv=("cat",), input=True))
            await talking.write(b"hello\n")
            await talking.close_input()
            said = b""
            async with contextlib.aclosing(talking.output()) as pieces:
                async for _, piece in pieces:
                    said += piece
            assert said.endswith(b"hello\n")
            assert await talking.wait() == 0
            for _ in range(2):
                await talking.close()
            silent = await controller.open_exec(Command(argv=("sleep", "1000000"), input=True))
            await silent.close()
            await controller.inspect()
            await controller.terminate()
            with pytest.raises((TaskGone, Failed)):
                await controller.open_exec(Command(argv=("cat",)))

    run_async(scenario())


@pytest.mark.parametrize("crash", [False, True], ids=["unloaded", "crashed"])
def test_tasks_outlive_the_agent_and_are_found_again(bench: Bench, crash: bool) -> None:
    async def scenario() -> None:
        running, ended, waiting = bench.bundle(OBEDIENT), bench.bundle(Program(exit_code=9)), bench.bundle(FOREVER)
        async with bench.driver(crash=crash) as driver:
            controllers = [await started(driver, bundle) for bundle in (running, ended)]
            await prepared(driver, waiting)
            await until_it_wrote(controllers[0])
            before = await controllers[0].inspect()
            await controllers[1].wait()
        async with bench.driver() as driver:
            found = await held(driver)
            assert found[running.id].running
            assert not found[ended.id].running
            assert waiting.id not in found or not found[waiting.id].running
            with_handle = await driver.controller(running, found[running.id].handle)
            assert await with_handle.inspect() == before, "it is the same one"
            assert (await (await driver.controller(ended, None)).wait()).code == 9, "a handle is not needed"
            await start(await prepared(driver, waiting))
            await with_handle.shutdown(GRACE_S)
            assert (await with_handle.wait()).status == bench.rig.stopped_status

    run_async(scenario())


def test_what_ends_while_no_agent_runs_keeps_its_code_and_log(bench: Bench) -> None:
    async def scenario() -> None:
        bundles = [bench.bundle(Program(lines=10, exit_code=code)) for code in (0, 5, 77)]
        async with bench.driver(crash=True) as driver:
            for bundle in bundles:
                await started(driver, bundle)
        async with bench.driver() as driver:
            for bundle, code in zip(bundles, (0, 5, 77), strict=True):
                controller = await driver.controller(bundle)
                assert (await controller.wait()).code == code
                assert await lines_of(controller) == [f"line {n}" for n in range(10)]

    run_async(scenario())


def test_orphans_are_removed_by_what_recover_says_of_them(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            await started(driver, bench.bundle(STUBBORN))
            await (await started(driver, bench.bundle(Program(exit_code=0)))).wait()
        async with bench.driver() as driver:
            orphans = await held(driver)
            assert len(orphans) == 2
            for orphan in orphans.values():
                for _ in range(2):
                    await driver.discard(orphan)
            assert not await held(driver)

    run_async(scenario())


def test_an_unknown_option_is_refused_by_its_name(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:
            bundle = bench.bundle(FOREVER)
            task = bundle.spec.task
            odd = msgspec.structs.replace(task, driver_options={**task.driver_options, "nonsense": "1"})
            object.__setattr__(bundle, "spec", msgspec.structs.replace(bundle.spec, task=odd))
            controller = await driver.controller(bundle)
            with pytest.raises(Unsupported) as refused:
                await controller.prepare()
            assert refused.value.fields == ("driver_options.nonsense",)
            await controller.remove()

    run_async(scenario())


def test_every_port_that_is_asked_for_is_reported(bench: Bench) -> None:
    async def scenario() -> None:
        ports = (
            PortConfig(name="web", target_port=8000, published_port=80),
            PortConfig(name="own", target_port=9000, publish_mode=PublishMode.HOST),
        )
        async with bench.driver() as driver:
            controller = await started(driver, bench.bundle(FOREVER, ports=ports))
            seen = (await controller.inspect()).ports
            assert [(port.name, port.target_port, port.protocol) for port in seen] == [
                ("web", 8000, "tcp"),
                ("own", 9000, "tcp"),
            ]
            assert all(0 < port.port < 65536 for port in seen)

    run_async(scenario())


def test_many_tasks_side_by_side_keep_their_codes_apart(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.driver() as driver:

            async def one(code: int) -> int | None:
                controller = await started(driver, bench.bundle(Program(lines=3, exit_code=code)))
                end = await controller.wait()
                assert await lines_of(controller) == ["line 0", "line 1", "line 2"]
                await controller.remove()
                return end.code

            codes = list(range(bench.rig.parallel))
            assert await asyncio.gather(*map(one, codes)) == codes
            assert not await held(driver)

    run_async(scenario(), timeout_s=55.0)


async def until_it_wrote(controller: Controller, lines: int = 1) -> None:
    """Wait until a task has written so many lines: then its signal handlers stand."""
    assert isinstance(controller, SupportsLogs)
    seen = 0
    async with asyncio.timeout(AT_ONCE_S), contextlib.aclosing(controller.logs(LogOptions(follow=True))) as batches:
        while seen < lines:
            seen += len(await anext(batches))
