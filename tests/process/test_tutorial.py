"""The tutorial, line by line, on real nodes: what it says is printed is printed."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.runtime.clock import SystemClock
from tests.support.ports import free_remote_api
from tests.support.swarm import ROOT, clean_environment, command_of, processes_of, send, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
PAGE = ROOT / "docs" / "tutorial.md"
EXPECTED = "# → "
WAIT_S = 60.0
AGAIN_S = 0.3
CLOCK = SystemClock()
WRAPPER = '#!/bin/sh\nexec "{python}" -P -m services.cli.{name} "$@"\n'


def steps(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of the page with what it must print."""
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        command: list[str] = []
        wanted: list[str] = []
        heredoc = False
        for line in block.splitlines():
            if line.startswith(EXPECTED):
                wanted.append(line.removeprefix(EXPECTED))
                continue
            if command and not heredoc:
                yield "\n".join(command), wanted
                command, wanted = [], []
            command.append(line)
            heredoc = line != "END" and (heredoc or "<<END" in line)
        yield "\n".join(command), wanted


class Shell:
    """One bash for the whole page, so that variables and background processes last."""

    def __init__(self, directory: Path) -> None:
        tools = directory / "bin"
        tools.mkdir()
        for name in ("supervisor", "swarmctl"):
            (tools / name).write_text(WRAPPER.format(python=sys.executable, name=name))
            (tools / name).chmod(0o755)
        environment = clean_environment()
        environment["PATH"] = f"{tools}:{environment['PATH']}"
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            env=environment,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; returns its exit code and what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n__code=$?; echo; echo __DONE__ $__code\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith("__DONE__"):
                return int(line.split()[1]), "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell ended in {command!r}: {''.join(printed)}")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def test_every_line_of_the_tutorial_works() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    directory = Path("/tmp") / f"tut-{id(PAGE) % 100000:05}"
    directory.mkdir(mode=0o700)
    page = PAGE.read_text().replace("/tmp/swarm", str(directory))
    for port in ("4242", "4343", "4444", "4545", "8080", "8081"):
        page = page.replace(port, free_remote_api().rpartition(":")[2])
    shell = Shell(directory)
    try:
        done = 0
        for command, wanted in steps(page):
            _carry_out(shell, command, wanted)
            done += 1
        assert done > 25, "the page has lost its commands"
        wait_until(lambda: not _left(directory), "every node is gone", 20.0)
    finally:
        for pid in processes_of(directory):
            send(pid, signal.SIGKILL)
        shell.close()
        shutil.rmtree(directory, ignore_errors=True)


def _left(directory: Path) -> list[str]:
    """Return the processes of nodes; what holds tasks outlives its node by design."""
    commands = map(command_of, processes_of(directory))
    return [command for command in commands if "services." in command and "taskd" not in command]


def _carry_out(shell: Shell, command: str, wanted: list[str]) -> None:
    """Run a command until it prints what it should: a swarm needs a moment, and so would the reader."""
    end = CLOCK.monotonic() + WAIT_S
    while True:
        code, printed = shell.run(command)
        missing = [text for text in wanted if text not in printed]
        if code == 0 and not missing:
            return
        repeatable = not re.search(r" (create|update|scale|deploy|rm|up) ", command)
        assert repeatable, f"{command}\nended with {code}, without {missing}:\n{printed}"
        assert CLOCK.monotonic() < end, f"{command}\nended with {code}, without {missing}:\n{printed}"
        threading.Event().wait(AGAIN_S)
