"""One worker of the data plane as a process: found alive or started, and watched.

Used by ``plane_line``. What must stay true: a worker lives in a session of its own with nothing of ours but its door, so that whatever
ends the gateway does not end it; a worker that we started is reaped.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import h11

from services.kit.runtime.processes import watch_end

_SOURCE = str(Path(__file__).parents[3])
_PARSER = str(Path(h11.__file__).parents[1])
"""Where the one library is that the plane may load, for HTTP ports."""
_REPORT_BYTES_MAX = 4000


def connect(path: Path) -> socket.socket | None:
    """Return a connection to the worker that listens on this path, or None when there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock


def start(path: Path, number: int, *, orphan_s: float) -> None:
    """Start a worker that listens on this path, in the place of one that is gone or retires."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as door:
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        door.bind(str(fresh))
        fresh.chmod(0o600)
        door.listen(4)
        fresh.replace(path)
        with report_path(path).open("wb") as report:
            process = subprocess.Popen(
                [
                    sys.executable, "-P", "-S", "-s", "-m", "services.gateway.plane",
                    str(door.fileno()), str(path), str(number), str(orphan_s),
                ],
                cwd=path.parent,
                env={"PYTHONPATH": os.pathsep.join((_SOURCE, _PARSER)), "PATH": os.environ.get("PATH", "")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=report,
                pass_fds=(door.fileno(),),
                start_new_session=True,
            )  # fmt: skip
    watch_end(process.pid, lambda: _reap(process))


def report_path(path: Path) -> Path:
    """Return where a worker writes why it crashed."""
    return path.with_suffix(".log")


def last_words(path: Path) -> str:
    """Return the end of what a worker wrote before it died."""
    report = report_path(path)
    return report.read_bytes()[-_REPORT_BYTES_MAX:].decode(errors="replace").strip() if report.exists() else ""


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
