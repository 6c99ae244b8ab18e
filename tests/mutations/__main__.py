"""``python -m tests.mutations``: plant each bug in a copy of the tree and see what finds it. Prints a table; fails when one survives.

The tests named beside a bug come first; what they let through is looked for by the simulator with a few seeds. Minutes to an hour: not part
of any default run. ``--only TEXT`` takes those whose file or description has the text.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutations.planted import PLANTED, Planted

ROOT = Path(__file__).parents[2]
COPIED = ("services", "swarmbus", "tests", "pyproject.toml")
TESTS_WITHIN_S = 300.0
SEEDS = 6
SEEDS_WITHIN_S = 240.0
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")
SIMULATE = (
    "import sys; from tests.sim.run import play\n"
    "for seed in range(1, {seeds} + 1):\n"
    "    result = play(seed)\n"
    "    if result.failure is not None:\n"
    "        print(f'seed {{seed}}: {{result.why}}'[:100]); sys.exit(1)\n"
)


def main() -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations", description="Look for planted bugs that no test finds."
    )
    parser.add_argument("--only", default="", help="only those whose file or description has this text")
    parser.add_argument("--no-simulator", action="store_true", help="leave out the simulator")
    options = parser.parse_args()
    chosen = [bug for bug in PLANTED if options.only in f"{bug.file} {bug.what}"]
    survivors = stale = 0
    with tempfile.TemporaryDirectory(prefix="swb-planted") as home:
        tree = Path(home)
        _copy(tree)
        broken = [
            test for test in sorted({test for bug in chosen for test in bug.tests}) if _fails(tree, _pytest(test))
        ]
        if broken:
            sys.stdout.write(f"these fail without any bug: {', '.join(broken)}\n")
            return 2
        for bug in chosen:
            if not applies(bug):
                stale += 1
                _say(bug, "STALE", 0.0)
                continue
            began = time.perf_counter()
            found = _try(tree, bug, simulator=not options.no_simulator)
            survivors += not found
            _say(bug, found or "SURVIVED", time.perf_counter() - began)
    sys.stdout.write(f"{len(chosen)} planted, {survivors} survived, {stale} stale\n")
    return 1 if survivors or stale else 0


def applies(bug: Planted, root: Path = ROOT) -> bool:
    """Tell whether a bug's place stands exactly once in the tree."""
    path = root / bug.file
    return path.exists() and path.read_text(encoding="utf-8").count(bug.before) == 1


def _copy(tree: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, tree / name)


def _try(tree: Path, bug: Planted, *, simulator: bool) -> str:
    """Plant a bug, look for it, take it out again; returns what found it, nothing when it survived."""
    path = tree / bug.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(sound.replace(bug.before, bug.after), encoding="utf-8")
    try:
        for test in bug.tests:
            if _fails(
                tree, [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test], TESTS_WITHIN_S
            ):
                return test
        script = SIMULATE.format(seeds=SEEDS)
        if simulator and _fails(tree, [sys.executable, "-c", script], SEEDS_WITHIN_S):
            return "the simulator"
        return ""
    finally:
        path.write_text(sound, encoding="utf-8")


def _pytest(test: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]


def _fails(tree: Path, command: list[str], within_s: float = TESTS_WITHIN_S) -> bool:
    """Run something in the copy; a run that hangs has found something as well."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def _say(bug: Planted, verdict: str, seconds: float) -> None:
    sys.stdout.write(f"{bug.file:<44} {bug.what:<58} {seconds:5.0f} s  {verdict}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
