"""The virtual loop: time jumps, order repeats, and a run that can never go on says so."""

from __future__ import annotations

import asyncio
import contextvars
import time

import pytest

from tests.sim.loop import PARTY, Party, Stalled, VirtualLoop, run_virtual


def test_hours_pass_in_an_instant() -> None:
    async def nap(loop: VirtualLoop) -> float:
        await asyncio.sleep(3600.0)
        return loop.time()

    began = time.perf_counter()
    assert run_virtual(nap) == pytest.approx(3600.0)
    assert time.perf_counter() - began < 5.0


def test_the_same_run_has_the_same_order() -> None:
    async def race(loop: VirtualLoop) -> list[int]:
        order: list[int] = []

        async def runner(number: int) -> None:
            for step in range(5):
                await asyncio.sleep(((number * 7 + step * 3) % 11) / 10)
                order.append(number)

        await asyncio.gather(*(runner(number) for number in range(20)))
        return order

    assert run_virtual(race) == run_virtual(race)


def test_work_for_threads_is_done_inline() -> None:
    async def ask(loop: VirtualLoop) -> int:
        return await loop.run_in_executor(None, lambda: 42)

    assert run_virtual(ask) == 42


def test_a_run_in_which_nothing_can_happen_fails() -> None:
    async def wait(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stalled, match="everybody waits"):
        run_virtual(wait)


def test_a_run_that_never_ends_is_cut_at_its_horizon() -> None:
    async def spin(loop: VirtualLoop) -> None:
        while True:  # noqa: ASYNC110 - endless on purpose
            await asyncio.sleep(1.0)

    with pytest.raises(Stalled, match="horizon"):
        run_virtual(spin, horizon_s=50.0)


def test_a_halted_party_waits_with_its_timers_and_goes_on_in_order() -> None:
    async def scene(loop: VirtualLoop) -> list[float]:
        party, seen = Party(), []

        async def tick() -> None:
            for _ in range(4):
                await asyncio.sleep(1.0)
                seen.append(int(loop.time()))

        context = contextvars.copy_context()
        context.run(PARTY.set, party)
        ticking = loop.create_task(tick(), context=context)
        assert list(party.tasks) == [ticking]
        await asyncio.sleep(1.5)
        loop.halt(party)
        await asyncio.sleep(10.0)
        assert seen == [1]
        loop.go_on(party)
        await ticking
        assert not party.tasks
        return [float(second) for second in seen]

    assert run_virtual(scene) == [1.0, 11.0, 12.0, 13.0]


def test_code_that_never_waits_cannot_stop_time() -> None:
    loop = VirtualLoop(creep_s=0.001)

    async def spin() -> None:
        while loop.time() < 0.5:  # noqa: ASYNC110 - that is what is tested
            await asyncio.sleep(0)

    loop.run_until_complete(spin())
    assert loop.rounds >= 400
    loop.close()
