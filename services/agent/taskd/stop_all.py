"""End all tasks of a node and its taskd: ``python -m services.agent.taskd.stop_all <worker-dir> <socket> [grace in seconds]``.

For a node that leaves the swarm for good. Nothing of the tasks is left, whether taskd runs, was killed, or never was. Exit code 0 when
that is so, 1 with the reason otherwise.
"""

from __future__ import annotations

import os
import socket
import sys

from services.agent.taskd import __file__ as package
from services.agent.taskd.records import Json
from services.agent.taskd.wire import Unpacker, pack

GRACE_S = 10.0
_MARGIN_S = 30.0


def main(argv: list[str]) -> int:
    """Do it; return the exit code."""
    if len(argv) not in {3, 4}:
        sys.stderr.write(f"usage: {argv[0]} <worker-dir> <socket> [grace in seconds]\n")
        return 2
    tasks_dir, path = f"{os.path.abspath(argv[1])}/tasks", os.path.abspath(argv[2])
    grace_s = float(argv[3]) if len(argv) == 4 else GRACE_S
    if not os.path.isdir(tasks_dir):
        return 0
    try:
        answer = _stop(tasks_dir, path, grace_s)
    except OSError as error:
        sys.stderr.write(f"cannot stop the tasks of {tasks_dir}: {error}\n")
        return 1
    if "error" in answer:
        sys.stderr.write(f"cannot stop the tasks of {tasks_dir}: {answer['error']}\n")
        return 1
    return 0


def _stop(tasks_dir: str, path: str, grace_s: float) -> Json:
    request: Json = {"seq": 1, "op": "stop_all", "grace_s": grace_s}
    try:
        return _ask(_connect(tasks_dir, path), request, grace_s + _MARGIN_S)
    except (ConnectionResetError, BrokenPipeError):
        # It was about to end by itself, having no tasks; the next one tells the same.
        return _ask(_connect(tasks_dir, path), request, grace_s + _MARGIN_S)


def _connect(tasks_dir: str, path: str) -> socket.socket:
    """Connect to the taskd of the directory; start one when none runs, for what a killed one left."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        ready, ready_in_child = os.pipe()
        os.set_inheritable(ready_in_child, True)
        main_file = os.path.join(os.path.dirname(os.path.abspath(package)), "__main__.py")
        arguments = (f"--tasks-dir={tasks_dir}", f"--socket={path}", f"--ready-fd={ready_in_child}")
        os.posix_spawn(
            sys.executable, (sys.executable, "-I", "-S", "-E", main_file, *arguments), os.environ, setsid=True
        )
        os.close(ready_in_child)
        os.read(ready, 1)
        os.close(ready)
        line.connect(path)
    return line


def _ask(line: socket.socket, request: Json, timeout_s: float) -> Json:
    line.settimeout(timeout_s)
    unpacker = Unpacker()
    with line:
        line.sendall(pack(request))
        while data := line.recv(1 << 16):
            for message in unpacker.feed(data):
                return message
    raise ConnectionResetError("taskd ended without an answer")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
