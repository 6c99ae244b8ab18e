"""How quickly swarmctl starts; ``python -m tests.bench.cli``.

Each figure is the wall-clock time of a whole command, interpreter included: the best and the median of several runs. The target for
commands that reach the swarm is 150 ms. The control server is a process-local one without raft behind it, so that swarmctl is measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.control_server import ServedSocket

ROUNDS = 15
TARGET_MS = 150.0
ROOT = Path(__file__).parents[2]
COMMANDS = (("--help",), ("service", "create", "--help"), ("version",), ("service", "ls"), ("node", "ls"))


def measure(words: tuple[str, ...], socket: str) -> list[float]:
    """Return the milliseconds of each run."""
    command = [sys.executable, "-c", "import sys; from services.cli.swarmctl import main; sys.exit(main())", *words]
    environment = {**os.environ, "SWARM_SOCKET": socket, "PYTHONPATH": str(ROOT)}
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True, cwd=ROOT)
        times.append((time.perf_counter() - start) * 1000)
    return times


def main() -> None:
    """Print a row for each command."""
    with tempfile.TemporaryDirectory() as folder:
        served = ServedSocket(Path(folder) / "control.sock")
        try:
            for words in COMMANDS:
                times = measure(words, served.path)
                best, median = min(times), statistics.median(times)
                verdict = "ok" if median <= TARGET_MS else f"over {TARGET_MS:g} ms"
                sys.stdout.write(
                    f"swarmctl {' '.join(words):<24} best {best:6.1f} ms   median {median:6.1f} ms   {verdict}\n"
                )
        finally:
            served.close()


if __name__ == "__main__":
    main()
