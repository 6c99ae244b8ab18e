"""``make sim``: play fresh seeds for a while, or one seed again.

A failing run is played again with fewer and fewer faults, and the shortest one is shown: which promise, the faults that are left, and the end of
the trace.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim.corpus import load_corpus
from tests.sim.run import SECONDS, Result, play, shorten

LINES = 60


def main() -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Break a simulated swarm on purpose.")
    parser.add_argument("--seed", type=int, help="play this seed only")
    parser.add_argument("--seconds", type=float, default=180.0, help="real seconds of fresh seeds (default 180)")
    parser.add_argument("--virtual", type=float, default=SECONDS, help="virtual seconds of faults in a run")
    parser.add_argument("--first", type=int, help="first of the fresh seeds (default: from the clock)")
    parser.add_argument("--corpus", action="store_true", help="play the seeds that have found something before")
    parser.add_argument("--lines", type=int, default=LINES, help="last lines of the trace to show")
    parser.add_argument("--trace", action="store_true", help="show the trace of a run that did not fail as well")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failing seed")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, options)
    if options.corpus:
        return max((_replay(seed.number, options) for seed in load_corpus()), default=0)
    return _fresh(options)


def _replay(seed: int, options: argparse.Namespace) -> int:
    result = play(seed, seconds=options.virtual)
    _say(_row(result))
    if result.failure is None:
        if options.trace:
            _say("\n".join(_tail(result, options.lines)))
        return 0
    _show(shorten(result, seconds=options.virtual), options)
    return 1


def _fresh(options: argparse.Namespace) -> int:
    seed = options.first if options.first is not None else time.time_ns() // 1000 % 1_000_000_000
    began = time.perf_counter()
    runs, virtual_s, failed = 0, 0.0, 0
    while time.perf_counter() - began < options.seconds:
        result = play(seed, seconds=options.virtual)
        runs, virtual_s = runs + 1, virtual_s + result.virtual_s
        _say(_row(result))
        if result.failure is not None:
            failed += 1
            if not options.keep_going:
                _show(shorten(result, seconds=options.virtual), options)
                break
        seed += 1
    real_s = time.perf_counter() - began
    _say(
        f"{runs} runs, {virtual_s:.0f} virtual seconds in {real_s:.0f} s ({virtual_s / real_s:.1f} a second), {failed} failed"
    )
    return 1 if failed else 0


def _row(result: Result) -> str:
    faults = sum(result.seen.values())
    done = sum(result.done.values())
    verdict = f"FAILED {result.why}" if result.failure is not None else f"converged in {result.converged_s:5.1f} s"
    return (
        f"seed {result.seed:<10} {result.virtual_s:6.1f} s virtual, {result.real_s:5.1f} s real, {faults:3} faults,"
        f" {done:4} calls, {result.commits:5} commits, {verdict}"
    )


def _show(result: Result, options: argparse.Namespace) -> None:
    _say(f"\n{len(result.faults)} faults are enough:")
    for fault in result.faults:
        _say(f"  {fault}")
    _say("\nthe end of the trace:")
    _say("\n".join(_tail(result, options.lines)))
    _say(f"\n{result.why}\nplay it again: make sim SEED={result.seed}")


def _tail(result: Result, lines: int) -> list[str]:
    assert result.trace is not None
    return list(result.trace.lines)[-lines:]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
