"""Users in tasks, as the agent sees it: a scripted dispatcher asks, a fake task answers."""

from __future__ import annotations

from pathlib import Path

from services.agent.shell.execs import CONVERSATIONS_MAX
from services.kit.messages.exec import Attach, ForwardPort, Measure, RunCommand, TerminalSize
from services.kit.model.specs import EndpointSpec, PortConfig, TaskSpec
from services.kit.model.states import TaskState
from tests.support.agents import ScriptedDispatcher, make_spec, make_task, one_agent, task_id
from tests.support.running import eventually, run_async

ONE = task_id(1)


async def run_one(dispatcher: ScriptedDispatcher, **options: str) -> None:
    spec = make_spec(task=TaskSpec(driver="fake", driver_options=options))
    dispatcher.assign(make_task(), specs=(spec,))
    await dispatcher.saw(ONE, TaskState.RUNNING)


def test_a_command_says_its_words_and_how_it_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            await run_one(dispatcher, unhealthy_after="1e-9")
            conversation = dispatcher.go_inside(ONE, RunCommand(argv=("say", "this")))
            last = await dispatcher.ended(conversation)
            assert (last.exit_code, last.error) == (1, "")
            assert dispatcher.heard(conversation) == b"say this\n"

    run_async(scenario())


def test_input_reaches_the_command_in_order_and_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            await run_one(dispatcher)
            conversation = dispatcher.go_inside(ONE, RunCommand(argv=("cat",), input=True, terminal=True))
            for number in range(100):
                dispatcher.tell(conversation, f"{number},".encode())
            dispatcher.tell(conversation, size=TerminalSize(rows=24, columns=80))
            dispatcher.tell(conversation, b"end", ended=True)
            assert (await dispatcher.ended(conversation)).exit_code == 0
            numbers = "".join(f"{number}," for number in range(100))
            assert dispatcher.heard(conversation) == f"cat\n{numbers}24x80\nend".encode()

    run_async(scenario())


def test_a_user_who_goes_away_ends_the_conversation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            await run_one(dispatcher)
            acts = [RunCommand(argv=("cat",), input=True) for _ in range(CONVERSATIONS_MAX)]
            conversations = [dispatcher.go_inside(ONE, act) for act in acts]
            await eventually(lambda: all(dispatcher.heard(each) for each in conversations))
            refused = dispatcher.go_inside(ONE, acts[0])
            assert "conversations on this node" in (await dispatcher.ended(refused)).error
            for conversation in conversations:
                dispatcher.leave(conversation, ONE, acts[0])
            for _ in range(CONVERSATIONS_MAX):
                taken_on = dispatcher.go_inside(ONE, RunCommand(argv=("true",)))
                assert (await dispatcher.ended(taken_on)).error == ""
            assert not any(output.done for each in conversations for output in dispatcher.said[each])

    run_async(scenario())


def test_a_reader_who_is_slow_costs_bounded_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            await run_one(dispatcher)
            dispatcher.hold_output.clear()
            conversation = dispatcher.go_inside(ONE, RunCommand(argv=("cat",), input=True))
            for _ in range(64):
                dispatcher.tell(conversation, b"x" * 60_000)
            dispatcher.tell(conversation, ended=True)
            dispatcher.hold_output.set()
            await dispatcher.ended(conversation)
            assert len(dispatcher.heard(conversation)) == len("cat\n") + 64 * 60_000
            largest = max(sum(len(piece.data) for piece in each.pieces) for each in dispatcher.said[conversation])
            assert largest < 400_000

    run_async(scenario())


def test_what_cannot_be_is_answered_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            ports = EndpointSpec(ports=(PortConfig(name="web", target_port=1),))
            dispatcher.assign(make_task(), specs=(make_spec(endpoint=ports),))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            for act, reason in (
                (RunCommand(argv=()), "there is no command"),
                (Attach(input=True), "keeps its input closed"),
                (Measure(), "measures nothing"),
                (ForwardPort(port="nope"), "no port 'nope'"),
                (ForwardPort(port="web"), "refuses"),
            ):
                assert reason in (await dispatcher.ended(dispatcher.go_inside(ONE, act))).error
            elsewhere = dispatcher.go_inside(task_id(9), RunCommand(argv=("x",)))
            assert "does not run on this node" in (await dispatcher.ended(elsewhere)).error

    run_async(scenario())


def test_attaching_to_a_task_without_input_follows_its_output(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            await run_one(dispatcher, run_for="0.3", log_lines="1000", log_interval="0.01", log_line="{n}")
            conversation = dispatcher.go_inside(ONE, Attach())
            last = await dispatcher.ended(conversation)
            assert (last.exit_code, last.error) == (None, "")
            lines = [int(line) for line in dispatcher.heard(conversation).split()]
            assert lines == list(range(lines[0], lines[-1] + 1))

    run_async(scenario())


def test_a_conversation_ends_with_its_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path) as (_, dispatcher):
            await run_one(dispatcher)
            conversation = dispatcher.go_inside(ONE, RunCommand(argv=("cat",), input=True))
            await eventually(lambda: dispatcher.heard(conversation))
            dispatcher.drop_session()
            await eventually(lambda: len(dispatcher.registrations) == 2)
            assert not any(output.done for output in dispatcher.said[conversation])
            again = dispatcher.go_inside(ONE, RunCommand(argv=("true",)))
            assert (await dispatcher.ended(again)).exit_code == 0

    run_async(scenario())
