"""Whole swarms, broken on purpose: fresh seeds for a while, the seeds that have found something, and the same trace for the same seed.

``SIM_SECONDS`` asks for more than the few seconds of a default run, ``SIM_SEED`` for a certain first seed; a failing seed is printed and
played again by ``make sim SEED=…``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.sim.corpus import Seed, load_corpus
from tests.sim.faults import Fault, draw
from tests.sim.run import Result, play

SECONDS = float(os.environ.get("SIM_SECONDS", "20"))
FIRST_SEED = int(os.environ.get("SIM_SEED", str(time.time_ns() // 1000 % 1_000_000_000)))
CORPUS_SHOWN = 4
"""Seeds of the corpus in a default run; the rest is played by ``make sim`` and in slow runs."""
SCRIPT = (
    "from tests.sim.run import play; result = play({seed}, seconds=5.0); print(result.digest, result.lines, result.why)"
)


def kept(result: Result) -> None:
    """Fail with what somebody needs to play it again."""
    if result.failure is not None:
        assert result.trace is not None
        tail = "\n".join(list(result.trace.lines)[-30:])
        raise AssertionError(f"seed {result.seed}: {result.why}\n{tail}\nplay it again: make sim SEED={result.seed}")


@pytest.mark.timeout(SECONDS + 200)
def test_fresh_seeds_keep_every_promise() -> None:
    began = time.perf_counter()
    seed = FIRST_SEED
    while True:
        kept(play(seed))
        seed += 1
        if time.perf_counter() - began > SECONDS:
            break


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", load_corpus()[-CORPUS_SHOWN:], ids=lambda seed: str(seed.number))
def test_a_seed_that_has_found_something_finds_nothing_any_more(seed: Seed) -> None:
    kept(play(seed.number))


@pytest.mark.timeout(200)
@pytest.mark.slow
@pytest.mark.parametrize("seed", load_corpus(), ids=lambda seed: str(seed.number))
def test_no_seed_of_the_whole_corpus_finds_anything(seed: Seed) -> None:
    kept(play(seed.number))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", [500063, 500065])
def test_the_same_seed_has_the_same_trace_whatever_the_order_of_hashes(seed: int) -> None:
    traces = []
    for order in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(seed=seed)],
            env={**os.environ, "PYTHONHASHSEED": order},
            capture_output=True,
            text=True,
            check=True,
        )
        traces.append(done.stdout.strip())
    assert traces[0] == traces[1]
    assert int(traces[0].split()[1]) > 100, "something has happened"


def test_the_same_seed_draws_the_same_faults_and_another_one_others() -> None:
    assert draw(7, 40.0) == draw(7, 40.0)
    assert draw(7, 40.0) != draw(8, 40.0)


def test_a_run_can_be_played_without_some_of_its_faults() -> None:
    cut = Fault(at=1.0, kind="cut", node=0, other=1, seconds=1.0, size=0.0)
    result = play(12, seconds=3.0, faults=(cut,))
    kept(result)
    assert result.seen == {"cut": 1}


def test_every_kind_of_fault_is_drawn_sooner_or_later() -> None:
    drawn = {fault.kind for seed in range(60) for fault in draw(seed, 40.0)}
    assert len(drawn) >= 17
