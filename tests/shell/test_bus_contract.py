"""What every bus does, whatever carries it: the same suite over memory, a Unix socket and CURVE."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.kit.bus.api import Limits, LocalAddress, Meta
from services.kit.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from services.kit.wire.codec import decode, encode
from tests.support.buses import COUNT, ECHO, FAIL, KINDS, SLOW, TELL, UNKNOWN, Line, Word, line
from tests.support.running import eventually, run_async

Check = Callable[[Line], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    def run_check(check: Check, limits: Limits | None = None) -> None:
        async def whole() -> None:
            async with line(request.param, tmp_path, limits) as opened:
                await check(opened)

        run_async(whole())

    return run_check


def test_a_call_brings_the_reply_of_its_handler(run: Run) -> None:
    async def check(on: Line) -> None:
        word = Word(text="hello", number=7, data=b"\x00\xff")
        assert await on.connection.call(ECHO, word) == word

    run(check)


def test_many_calls_run_at_once_and_each_gets_its_own_reply(run: Run) -> None:
    async def check(on: Line) -> None:
        replies = await asyncio.gather(*(on.connection.call(ECHO, Word(number=n)) for n in range(500)))
        assert [reply.number for reply in replies] == list(range(500))

    run(check)


def test_the_handler_knows_who_calls_and_how_much_time_is_left(run: Run) -> None:
    async def check(on: Line) -> None:
        await on.connection.call(ECHO, Word(), timeout_s=3.0, meta=Meta(request_id="r1", cause="c1"))
        (context,) = on.answers.contexts
        assert context.caller == context.peer
        assert context.peer.process == "tester"
        assert context.peer.addr
        assert context.meta == Meta(request_id="r1", cause="c1")
        assert context.remaining_s == pytest.approx(3.0, abs=0.01)

    run(check)


def test_a_typed_error_arrives_as_the_same_class(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(NotFound, match="no such word"):
            await on.connection.call(FAIL, Word(text="not-found"))

    run(check)


def test_a_bug_in_a_handler_shows_its_class_and_nothing_else(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(Internal) as caught:
            await on.connection.call(FAIL, Word(text="anything"))
        assert caught.value.message == "ValueError"
        assert await on.connection.call(ECHO, Word(number=1)) == Word(number=1)

    run(check)


def test_a_broken_invariant_in_a_handler_is_told_to_the_owner_of_the_bus(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(Internal):
            await on.connection.call(FAIL, Word(text="assert"))
        async with asyncio.timeout(5):
            assert str(await on.server.failed()) == "broken on purpose"

    run(check)


def test_an_unknown_method_is_unimplemented(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(Unimplemented, match=r"test\.unknown"):
            await on.connection.call(UNKNOWN, Word())

    run(check)


def test_a_body_of_the_wrong_shape_is_refused_with_the_path(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await on.connection.call_raw(ECHO.name, b"\x81\xa6number\xa3one", timeout_s=5)
        (problem,) = caught.value.problems
        assert problem.path == "Word.number"
        assert "expected `int`" in problem.reason

    run(check)


def test_a_stream_asked_as_a_call_and_a_call_asked_as_a_stream_are_refused(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(InvalidArgument, match="wrong way"):
            await on.connection.call_raw(COUNT.name, encode(Word(number=1)), timeout_s=5)
        with pytest.raises(InvalidArgument, match="wrong way"):
            async with on.connection.open_raw(ECHO.name, encode(Word())) as items:
                await anext(items)

    run(check)


def test_a_deadline_ends_the_call_on_both_sides(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            await on.connection.call(SLOW, Word(), timeout_s=0.05)
        assert caught.value.details.maybe_executed
        await eventually(lambda: on.answers.cancelled == 1)

    run(check)


def test_a_call_without_time_is_not_even_sent(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            await on.connection.call(SLOW, Word(), timeout_s=0)
        assert not caught.value.details.maybe_executed
        await on.connection.call(ECHO, Word())
        assert on.answers.slow == 0

    run(check)


def test_cancelling_the_caller_cancels_the_handler(run: Run) -> None:
    async def check(on: Line) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(on.connection.call(SLOW, Word()))
            await eventually(lambda: on.answers.slow == 1)
            task.cancel()
        await eventually(lambda: on.answers.cancelled == 1)
        assert await on.connection.call(ECHO, Word(number=2)) == Word(number=2)

    run(check)


def test_a_stream_brings_all_items_in_order_and_ends(run: Run) -> None:
    async def check(on: Line) -> None:
        async with on.connection.open(COUNT, Word(number=3000, data=b"x" * 500)) as items:
            assert [item.number async for item in items] == list(range(3000))
        await eventually(lambda: on.answers.feeds_closed == 1)

    run(check)


def test_an_error_ends_a_stream_after_its_items(run: Run) -> None:
    async def check(on: Line) -> None:
        async with on.connection.open(COUNT, Word(number=3, text="not-found")) as items:
            assert [(await anext(items)).number for _ in range(3)] == [0, 1, 2]
            with pytest.raises(NotFound, match="no more words"):
                await anext(items)

    run(check)


def test_leaving_a_stream_closes_the_iterator_of_its_handler(run: Run) -> None:
    async def check(on: Line) -> None:
        async with on.connection.open(COUNT, Word(number=1, text="wait")) as items:
            assert (await anext(items)).number == 0
        await eventually(lambda: on.answers.feeds_closed == 1)

    run(check)


def test_an_item_larger_than_the_window_still_moves(run: Run) -> None:
    async def check(on: Line) -> None:
        async with on.connection.open(COUNT, Word(number=4, data=b"x" * 5000)) as items:
            assert [len(item.data) async for item in items] == [5000] * 4

    run(check, Limits(window_bytes=1000))


def test_a_consumer_that_does_not_read_stops_the_producer_after_one_window(run: Run) -> None:
    limits = Limits(window_bytes=64 << 10)

    async def check(on: Line) -> None:
        async with on.connection.open(COUNT, Word(number=100_000, data=b"x" * 1000)) as items:
            await anext(items)
            await eventually(lambda: on.answers.produced > 50)
            for _ in range(20):
                await on.connection.call(ECHO, Word())
            assert on.answers.produced <= 64 * 1024 // 1000 + 2
            for _ in range(200):
                await anext(items)
            assert on.answers.produced >= 200

    run(check, limits)


def test_a_slow_stream_does_not_hold_up_another(run: Run) -> None:
    async def check(on: Line) -> None:
        async with (
            on.connection.open(COUNT, Word(number=100_000, data=b"x" * 1000)) as stuck,
            on.connection.open(COUNT, Word(number=2000, data=b"y" * 100)) as quick,
        ):
            await anext(stuck)
            assert len([item async for item in quick]) == 2000

    run(check)


def test_casts_arrive_in_order(run: Run) -> None:
    async def check(on: Line) -> None:
        assert all(on.connection.cast(TELL, Word(number=n)) for n in range(200))
        await eventually(lambda: len(on.answers.told) == 200)
        assert on.answers.told == list(range(200))

    run(check)


def test_a_cast_that_is_refused_harms_nobody(run: Run) -> None:
    async def check(on: Line) -> None:
        on.connection.cast(TELL, Word(number=1, data=b"x"))
        unknown = type(TELL)(name="test.nobody", message=Word, owner=TELL.owner)
        assert on.connection.cast(unknown, Word())
        on.connection.cast(TELL, Word(number=2))
        await eventually(lambda: on.answers.told == [1, 2])

    run(check)


def test_more_calls_than_the_bound_are_refused_and_a_cancelled_one_counts_until_it_ends(run: Run) -> None:
    async def check(on: Line) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(on.connection.call(SLOW, Word())) for _ in range(4)]
            await eventually(lambda: on.answers.slow == 4)
            with pytest.raises(ResourceExhausted) as caught:
                await on.connection.call(ECHO, Word())
            assert caught.value.details.retry_ms > 0
            on.answers.go_on.set()
            assert await asyncio.gather(*tasks) == [Word()] * 4
        assert await on.connection.call(ECHO, Word()) == Word()

    run(check, Limits(calls_max=4))


def test_a_request_larger_than_a_frame_is_refused_before_it_is_sent(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(ResourceExhausted, match="larger than"):
            await on.connection.call(ECHO, Word(data=b"x" * 200_000))
        with pytest.raises(ResourceExhausted, match="larger than"):
            on.connection.cast(TELL, Word(data=b"x" * 200_000))
        assert await on.connection.call(ECHO, Word()) == Word()

    run(check, Limits(frame_bytes_max=100_000))


def test_an_answer_larger_than_a_frame_is_an_error_of_that_call_only(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(ResourceExhausted, match="does not fit"):
            await on.connection.call(FAIL, Word(text="large", data=b"x" * 60_000))
        assert await on.connection.call(ECHO, Word()) == Word()

    run(check, Limits(frame_bytes_max=100_000))


def test_all_problems_of_a_bad_request_arrive_unless_they_are_absurdly_many(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await on.connection.call(FAIL, Word(text="problems", number=5))
        assert [problem.path for problem in caught.value.problems] == ["p0", "p1", "p2", "p3", "p4"]
        with pytest.raises(InvalidArgument, match="p0: xxx") as caught:
            await on.connection.call(FAIL, Word(text="problems", number=5000))
        assert caught.value.problems == ()

    run(check)


def test_calls_that_are_cancelled_before_they_begin_are_forgotten(run: Run) -> None:
    async def check(on: Line) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            tasks = [loop.create_task(on.connection.call(SLOW, Word())) for _ in range(4)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await eventually(lambda: on.answers.slow == on.answers.cancelled)
        assert await asyncio.gather(*(on.connection.call(ECHO, Word(number=n)) for n in range(4)))

    run(check, Limits(calls_max=4))


def test_what_was_cast_before_the_connection_was_closed_still_arrives(run: Run) -> None:
    async def check(on: Line) -> None:
        for number in range(300):
            assert on.connection.cast(TELL, Word(number=number))
        await on.connection.close()
        await eventually(lambda: len(on.answers.told) == 300)
        await eventually(lambda: not getattr(on.listener, "_peers", ()))
        again = await on.client.dial(on.address)
        assert await again.call(ECHO, Word(number=1)) == Word(number=1)

    run(check)


def test_closing_a_connection_ends_what_is_under_way_on_both_sides(run: Run) -> None:
    async def check(on: Line) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_expect_unavailable(on, executed=True))
            await eventually(lambda: on.answers.slow == 1)
            await on.connection.close()
        assert isinstance(on.connection.lost, Unavailable)
        assert await on.connection.wait_lost() is on.connection.lost
        await on.connection.close()
        await eventually(lambda: on.answers.cancelled == 1)
        await _expect_unavailable(on, executed=False)
        assert not on.connection.cast(TELL, Word())

    run(check)


def test_closing_the_listener_ends_calls_and_streams_of_its_diallers(run: Run) -> None:
    async def check(on: Line) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_expect_unavailable(on, executed=True))
            async with on.connection.open(COUNT, Word(number=1, text="wait")) as items:
                await anext(items)
                await eventually(lambda: on.answers.slow == 1)
                await on.listener.close()
                assert on.answers.cancelled == 1, "handlers have ended when close returns"
                assert on.answers.feeds_closed == 1
                with pytest.raises(Unavailable):
                    await anext(items)
        with pytest.raises(Unavailable):
            await on.client.dial(on.address)
        await on.listener.close()

    run(check)


def test_a_draining_listener_lets_calls_finish_and_takes_no_new_ones(run: Run) -> None:
    async def check(on: Line) -> None:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(on.connection.call(SLOW, Word(number=9)))
            await eventually(lambda: on.answers.slow == 1)
            closing = group.create_task(on.listener.close(drain_s=10))
            await eventually(lambda: on.connection.lost is not None)
            await _expect_unavailable(on, executed=False)
            on.answers.go_on.set()
            assert await call == Word(number=9)
            await closing

    run(check)


def test_a_drain_does_not_wait_for_ever(run: Run) -> None:
    async def check(on: Line) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_expect_unavailable(on, executed=True))
            await eventually(lambda: on.answers.slow == 1)
            await on.listener.close(drain_s=0.05)
        assert on.answers.cancelled == 1

    run(check)


def test_an_address_on_which_somebody_listens_is_refused_to_a_second_one(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(FailedPrecondition):
            await _listen_again(on)
        assert await on.connection.call(ECHO, Word()) == Word()
        await on.listener.close()
        await _listen_again(on)
        connection = await on.client.dial(on.address)
        assert await connection.call(ECHO, Word(number=1)) == Word(number=1)

    run(check)


def test_a_proxy_passes_bodies_it_has_not_decoded(run: Run) -> None:
    async def check(on: Line) -> None:
        reply = await on.connection.call_raw(ECHO.name, encode(Word(number=5)), timeout_s=None)
        assert decode(Word, reply).number == 5
        async with on.connection.open_raw(COUNT.name, encode(Word(number=3))) as items:
            assert [decode(Word, item).number async for item in items] == [0, 1, 2]

    run(check)


def test_a_handler_that_stops_by_itself_is_a_cancelled_call(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(Cancelled):
            await on.connection.call(FAIL, Word(text="cancelled"))

    run(check)


def test_heartbeats_keep_an_idle_connection(run: Run) -> None:
    async def check(on: Line) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await on.connection.wait_lost()
        assert await on.connection.call(ECHO, Word()) == Word()

    run(check, Limits(heartbeat_interval_s=0.05))


def test_a_closed_bus_leaves_no_connection(run: Run) -> None:
    async def check(on: Line) -> None:
        await on.server.close()
        await on.server.close()
        async with asyncio.timeout(5):
            assert isinstance(await on.connection.wait_lost(), Unavailable)

    run(check)


async def _expect_unavailable(on: Line, *, executed: bool) -> None:
    with pytest.raises(Unavailable) as caught:
        await on.connection.call(SLOW, Word())
    assert caught.value.details.maybe_executed is executed


async def _listen_again(on: Line) -> None:
    if isinstance(on.address, LocalAddress):
        await on.server.listen_local(on.address.path, on.answers.table(trusted=True))
    else:
        await on.server.listen_remote(on.address.host, on.address.port, on.answers.table())
