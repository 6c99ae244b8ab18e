"""The live progress of swarmctl on a real pseudo-terminal: what a person sees in the end, not the bytes on the way."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.kit.model.objects import Service
from services.kit.model.states import TaskState
from services.kit.runtime.clock import SystemClock
from tests.support.control_server import ControlServer, ServedSocket

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0
CLOCK = SystemClock()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedSocket]:
    here = ServedSocket(tmp_path / "control.sock")
    yield here
    here.close()


@pytest.fixture
def show(served: ServedSocket) -> Iterator[Callable[..., Terminal]]:
    """Run swarmctl on a terminal; one that a failing test leaves is ended."""
    shown: list[Terminal] = []

    def run(*words: str, **environment: str) -> Terminal:
        shown.append(Terminal([*words], served.path, environment=environment))
        return shown[-1]

    yield run
    for terminal in shown:
        terminal.process.kill()
        terminal.end()


class Terminal:
    """A terminal that understands what the progress uses: lines, going up, erasing."""

    def __init__(
        self, words: list[str], socket: str, *, columns: int = 60, environment: dict[str, str] | None = None
    ) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.cli.swarmctl", *words],
            env={**kept, "SWARM_SOCKET": socket, "PYTHONPATH": str(ROOT), "TERM": "xterm", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
        )
        os.close(slave)
        self._master = master
        self.bytes = b""

    def read_until(self, seen: Callable[[str], bool]) -> list[str]:
        """Read until the screen is as wanted and return its lines."""
        deadline = CLOCK.monotonic() + WAIT_S
        while not seen(screen := "\n".join(self.screen())):
            left_s = deadline - CLOCK.monotonic()
            assert left_s > 0, f"the screen never was as wanted:\n{screen}"
            if select.select([self._master], [], [], left_s)[0]:
                try:
                    got = os.read(self._master, 65536)
                except OSError:  # the other side has closed
                    got = b""
                assert got, f"it ended before the screen was as wanted:\n{screen}"
                self.bytes += got
        return self.screen()

    def end(self) -> int:
        """Wait for the command and return its exit code."""
        code = self.process.wait(WAIT_S)
        if self._master >= 0:
            assert self.process.stdout is not None
            self.process.stdout.close()
            os.close(self._master)
            self._master = -1
        return code

    def screen(self) -> list[str]:
        """Return the lines that are to be seen now."""
        lines, row = [""], 0
        rest = self.bytes.decode(errors="replace").replace("\r\n", "\n")
        while rest:
            if rest.startswith("\x1b["):
                end = next((index for index, letter in enumerate(rest[2:], 2) if letter.isalpha()), None)
                if end is None:
                    break
                row = self._steer(lines, row, rest[end], rest[2:end])
                rest = rest[end + 1 :]
                continue
            letter, rest = rest[0], rest[1:]
            if letter == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif letter != "\r":
                lines[row] += letter
        return [line.rstrip() for line in lines if line.strip()]

    def _steer(self, lines: list[str], row: int, letter: str, argument: str) -> int:
        match letter:
            case "A":
                return row - int(argument or 1)
            case "K":
                lines[row] = ""
            case "J":
                lines[row:] = [""]
            case _:
                assert letter == "m", f"the terminal does not know ESC[{argument}{letter}"
        return row


def only(server: ControlServer) -> Service:
    (service,) = server.state.services.values()
    return service


CREATE = ["service", "create", "--name", "web", "--replicas", "2", "--driver", "process"]


def test_the_block_is_rewritten_in_place_and_shows_the_reason_under_its_bar(
    served: ServedSocket, show: Callable[..., Terminal]
) -> None:
    served.server.runs_tasks = False
    terminal = show(*CREATE, "--stable", "0", "--", "run")
    terminal.read_until(lambda screen: "0 out of 2" in screen)
    first = served.call(lambda server: server.add_task(only(server), 1, TaskState.RUNNING))
    why = "no suitable node (insufficient memory on 2 nodes; scheduling constraints not satisfied on 1 node)"
    second = served.call(lambda server: server.add_task(only(server), 2, TaskState.PENDING, message=why))
    screen = terminal.read_until(lambda text: "on 1 node)" in text)
    assert screen[0] == "overall progress: 1 out of 2 tasks"
    assert screen[1].startswith("1/2: running    ━━")
    assert screen[2].startswith("2/2: pending    ━━")
    assert screen[3].startswith("     no suitable node (insufficient memory")
    assert all(len(line) <= 60 for line in screen)
    served.call(lambda server: server.set_task(second, TaskState.RUNNING))
    screen = terminal.read_until(lambda text: "2/2: running" in text and "insufficient" not in text)
    assert screen[0] == "overall progress: 2 out of 2 tasks, converged"
    assert [line.split("━")[0] for line in screen[1:]] == ["1/2: running    ", "2/2: running    "]
    assert terminal.end() == 0
    assert first.id != second.id


def test_tasks_are_watched_for_a_while_before_it_is_done(served: ServedSocket, show: Callable[..., Terminal]) -> None:
    terminal = show(*CREATE, "--stable", "300ms", "--", "run")
    terminal.read_until(lambda screen: "verifying" in screen)
    terminal.read_until(lambda screen: "converged" in screen)
    assert terminal.end() == 0


def test_colours_are_for_those_who_want_them(served: ServedSocket, show: Callable[..., Terminal]) -> None:
    plain = show(*CREATE, "--stable", "0", "--", "run", NO_COLOR="1")
    plain.read_until(lambda screen: "converged" in screen)
    assert plain.end() == 0
    assert b"\x1b[32m" not in plain.bytes
    coloured = show("service", "update", "web", "--stable", "0")
    coloured.read_until(lambda screen: "converged" in screen)
    assert coloured.end() == 0
    assert b"\x1b[32m" in coloured.bytes


def test_an_interrupt_ends_the_waiting_and_says_that_the_work_goes_on(
    served: ServedSocket, show: Callable[..., Terminal]
) -> None:
    served.server.runs_tasks = False
    terminal = show(*CREATE, "--", "run")
    terminal.read_until(lambda screen: "0 out of 2" in screen)
    terminal.process.send_signal(2)
    terminal.read_until(lambda screen: "no longer waiting; the swarm goes on" in screen)
    assert terminal.end() == 130
    assert served.server.state.service_named("web") is not None
