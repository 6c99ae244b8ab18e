"""The virtual loop: time jumps, order repeats, and a run that can never go on says so."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.sim.loop import Stalled, VirtualLoop, run_virtual


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
