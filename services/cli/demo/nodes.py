"""The demo's nodes: started with the very command a user types, killed as a power cut would, cleaned up whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from services.kit.runtime.clock import SystemClock

READY_S = 30.0
STOP_S = 30.0
CLOCK = SystemClock()
COMMAND = (sys.executable, "-P", "-m", "services.cli.supervisor")


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


class DemoNode:
    """One node of the demo: its directory, its address on loopback, and its supervisor while it runs."""

    def __init__(self, name: str, directory: Path, address: str, port: int) -> None:
        self.name = name
        self.address = address
        self.remote_api = f"{address}:{port}"
        self.state_dir = directory / name
        self.control_socket = str(self.state_dir / "control.sock")
        self.ready_s = 0.0
        self._log = directory / f"{name}.log"
        self._options: tuple[str, ...] = ()
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()

    def start(self, *options: str) -> None:
        """Run ``supervisor up``; options are remembered for the next start."""
        self._options = options or self._options
        self._ready.clear()
        began = CLOCK.monotonic()
        self._process = subprocess.Popen(
            [
                *COMMAND,
                "up",
                *("--state-dir", str(self.state_dir), "--listen-remote-api", self.remote_api, "--hostname", self.name),
                *self._options,
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._listen, args=(self._process, began), name=self.name, daemon=True).start()

    def wait_ready(self) -> None:
        """Wait for «node is ready»."""
        if not self._ready.wait(READY_S) or not self.running:
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:]) if self._log.exists() else ""
            raise DemoFailed(f"{self.name} did not become ready within {READY_S:g} s:\n{end}")

    @property
    def running(self) -> bool:
        """True while its supervisor runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill every process of the node at once, its tasks included."""
        pids = processes_of(self.state_dir)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                send(pid, number)
        if self._process is not None:
            self._process.wait(STOP_S)

    def stop(self) -> None:
        """Stop politely, as Ctrl-C does."""
        if self._process is None or not self.running:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _listen(self, process: subprocess.Popen[str], began: float) -> None:
        assert process.stderr is not None
        with self._log.open("a") as log, process.stderr:
            for line in process.stderr:
                log.write(line)
                log.flush()
                if "node is ready" in line:
                    self.ready_s = CLOCK.monotonic() - began
                    self._ready.set()
        self._ready.set()


def free_port(addresses: tuple[str, ...]) -> int:
    """Return a port P such that P, P+1 and P+2 are free on every address."""
    for port in range(4242, 9000, 10):
        if all(_free(address, each) for address in addresses for each in (port, port + 1, port + 2)):
            return port
    raise DemoFailed("no three free ports in a row between 4242 and 9000 on loopback")


def free_single_port(addresses: tuple[str, ...], first: int) -> int:
    """Return the first port from ``first`` on that is free on every address."""
    for port in range(first, first + 500):
        if all(_free(address, port) for address in addresses):
            return port
    raise DemoFailed(f"no free port from {first} on")


def processes_of(state_dir: Path) -> list[int]:
    """Return the live processes whose command line, environment or working directory names the state directory."""
    pids = sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
    return [pid for pid in pids if pid != os.getpid() and _belongs(pid, str(state_dir))]


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _belongs(pid: int, directory: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        environment = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
        words += [word.partition("=")[2] for word in environment]
        words.append(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return False
    return state != "Z" and any(word == directory or word.startswith(f"{directory}/") for word in words)


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
