"""``make bench``: every subject in turn, or those that are named; quote medians and ratios, from a quiet machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def subjects() -> list[str]:
    """Return the names of all benches, one file each."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.name.startswith("_"))


def main(names: list[str]) -> int:
    """Run benches in processes of their own; returns how many failed."""
    unknown = sorted(set(names) - set(subjects()))
    if unknown:
        sys.stderr.write(f"no bench called {', '.join(unknown)}; there are {', '.join(subjects())}\n")
        return 2
    failed = 0
    for name in names or subjects():
        load = os.getloadavg()[0]
        sys.stdout.write(f"\n== {name} (load {load:.2f}{', not quiet' if load > 1 else ''})\n")
        sys.stdout.flush()
        failed += subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
