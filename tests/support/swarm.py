"""Real nodes on loopback for process-level tests: started with the command a user types, killed by pid, nothing left behind.

    with Swarm(tmp_path) as swarm:
        first = swarm.start("n1")
        second = swarm.join("n2", role="manager")
        first.kill()                                  # as a power cut: every process of the node at once
        first.start()                                 # the same node again, from its state directory

Waiting is always for a condition with a deadline; a failure shows the end of each node's log.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import msgspec

from services.client.blocking import BlockingClient
from services.kit.errors import SwarmError
from services.kit.runtime.clock import SystemClock
from tests.support.ports import free_remote_api

ROOT = Path(__file__).parents[2]
READY_S = 20.0
STOP_S = 25.0
GONE_S = 5.0
LOOK_AGAIN_S = 0.02
LOG_LINES_SHOWN = 60
CLOCK = SystemClock()


class ProcessFact(msgspec.Struct, frozen=True):
    """One process of a node, as `supervisor status --json` shows it."""

    process: str
    pid: int
    state: str
    restarts: int


class NodeFact(msgspec.Struct, frozen=True):
    """A node, as `supervisor status --json` shows it."""

    node_id: str
    cluster_id: str
    role: str
    state: str
    pid: int
    processes: tuple[ProcessFact, ...]

    def pid_of(self, process: str) -> int:
        """Return the pid of a process of the node."""
        return {"supervisor": self.pid, **{each.process: each.pid for each in self.processes}}[process]


class SwarmNode:
    """One node: its state directory, its address, and (while it runs) its supervisor."""

    def __init__(
        self, name: str, state_dir: Path, remote_api: str, options: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.state_dir = state_dir
        self.remote_api = remote_api
        self.control_socket = str(state_dir / "control.sock")
        self.lines: list[str] = []
        self.was_cut = False
        """True once a process was killed: its data plane may live on for a while, to be adopted."""
        self.wrapper: tuple[str, ...] = ()
        """What the supervisor is run by, for example a command that puts it into a network of its own."""
        self._options = options
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._pump: threading.Thread | None = None
        self._heard = threading.Condition()

    # -- life

    def start(self, *more: str, wait: bool = True) -> Self:
        """Run ``supervisor up``, this time with these options as well; returns when the node is ready."""
        assert self._process is None, f"{self.name} runs already"
        with self._heard:
            self.lines.clear()
        self._process = subprocess.Popen(
            [
                *self.wrapper,
                *SUPERVISOR,
                "up",
                *("--state-dir", str(self.state_dir), "--listen-remote-api", self.remote_api),
                *("--hostname", self.name, "--log-level", "debug"),
                *self._options,
                *more,
            ],
            env={**clean_environment(), **self._environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._pump = threading.Thread(target=self._listen, name=f"log of {self.name}", daemon=True)
        self._pump.start()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait for `node is ready`."""
        self.wait_log("node is ready", timeout_s)

    def wait_log(self, text: str, timeout_s: float = READY_S) -> str:
        """Wait until a line of the log has this text and return the line."""
        end = CLOCK.monotonic() + timeout_s
        seen = 0
        with self._heard:
            while True:
                for line in self.lines[seen:]:
                    if text in line:
                        return line
                seen = len(self.lines)
                ended = self._process is None or self._process.poll() is not None
                left_s = end - CLOCK.monotonic()
                over = ended or left_s <= 0
                assert not over, f"{self.name} never said {text!r}\n{self.log_end()}"
                self._heard.wait(min(left_s, 0.2))

    def stop(self) -> int:
        """Stop as a user does with Ctrl-C; returns the exit code."""
        assert self._process is not None, f"{self.name} does not run"
        self._process.send_signal(signal.SIGINT)
        return self.wait_end()

    def wait_end(self) -> int:
        """Wait until the node has ended; returns the exit code."""
        assert self._process is not None, f"{self.name} does not run"
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not stop\n{self.log_end()}") from None
        self._reap()
        return code

    def end(self) -> None:
        """Stop if it runs; for the end of a test."""
        if self.running:
            self.stop()
        self._reap()

    def kill(self) -> float:
        """Kill every process of the node at once, tasks included, as a power cut does; returns when the first one stood still."""
        self.was_cut = True
        pids = processes_of(self.state_dir)
        began = CLOCK.monotonic()
        for pid in pids:
            send(pid, signal.SIGSTOP)
        for pid in [*pids, *processes_of(self.state_dir)]:
            send(pid, signal.SIGKILL)
        self._reap()
        wait_until(lambda: not processes_of(self.state_dir), f"all processes of {self.name} are gone", GONE_S)
        return began

    def kill_process(self, process: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kill one process of the node by its pid; returns the pid."""
        self.was_cut = True
        pid = self.status().pid_of(process)
        os.kill(pid, number)
        if process == "supervisor":
            self._reap()
        return pid

    @property
    def running(self) -> bool:
        """True while the supervisor runs."""
        return self._process is not None and self._process.poll() is None

    def status(self) -> NodeFact:
        """Ask the supervisor."""
        done = run_supervisor("status", "--json", "--state-dir", str(self.state_dir))
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout, type=NodeFact)

    def client(self) -> BlockingClient:
        """Return a client of this node's control socket; close it."""
        return BlockingClient(self.control_socket)

    def swarmctl(self, *words: str, code: int = 0) -> str:
        """Run swarmctl as a user of this node does; returns what it printed, its complaints when they are expected."""
        done = run_swarmctl("-s", self.control_socket, *words)
        assert done.returncode == code, f"swarmctl {' '.join(words)} ended with {done.returncode}: {done.stderr}"
        return done.stderr if code else done.stdout

    def left_behind(self) -> list[str]:
        """Return the node's processes other than tasks and what holds them."""
        commands = [command_of(pid) for pid in processes_of(self.state_dir)]
        return [command for command in commands if "services." in command and "taskd" not in command]

    def log_end(self) -> str:
        """Return the last lines of the log."""
        return "\n".join([f"--- {self.name}", *self.lines[-LOG_LINES_SHOWN:]])

    # -- inside

    def _reap(self) -> None:
        if self._process is None:
            return
        self._process.wait(STOP_S)
        assert self._pump is not None
        self._pump.join(GONE_S + STOP_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._heard:
                self.lines.append(line.rstrip("\n"))
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()


class Swarm:
    """Nodes of one test. The directory must be short: local sockets have paths of 107 bytes at most."""

    def __init__(self, directory: Path, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """``environment`` is added to that of every node."""
        self._environment = environment
        self._directory = Path("/tmp") / f"sb-{os.getpid()}-{abs(hash(str(directory))) % 100000:05}"
        self.nodes: dict[str, SwarmNode] = {}

    def node(self, name: str, *options: str) -> SwarmNode:
        """Return a new node that is not started yet."""
        node = SwarmNode(name, self._directory / name, free_remote_api(), options, self._environment)
        self.nodes[name] = node
        return node

    def start(self, name: str, *options: str) -> SwarmNode:
        """Start a node that makes a cluster of itself."""
        return self.node(name, *options).start()

    def join(self, name: str, *options: str, role: str = "worker", via: SwarmNode | None = None) -> SwarmNode:
        """Start a node that joins the cluster of the first one (or of ``via``)."""
        return self.joining(name, *options, role=role, via=via).start()

    def joining(self, name: str, *options: str, role: str = "worker", via: SwarmNode | None = None) -> SwarmNode:
        """Return a new node that will join when it is started."""
        via = via or next(node for node in self.nodes.values() if node.running)
        return self.node(name, "--join-addr", via.remote_api, "--join-token", self.token(role, via), *options)

    def token(self, role: str, via: SwarmNode | None = None) -> str:
        """Return a join token of the cluster."""
        via = via or next(node for node in self.nodes.values() if node.running)
        with via.client() as client:
            tokens = client.clusters.get().root_ca.join_tokens
        return tokens.manager if role == "manager" else tokens.worker

    def leader(self) -> SwarmNode:
        """Return the node that leads now, asked of any running node; waits while there is none."""
        found: list[SwarmNode] = []

        def look() -> bool:
            for node in self.nodes.values():
                if node.running and (leader := self._leader_seen_by(node)):
                    found.append(leader)
                    return True
            return False

        wait_until(look, "there is a leader")
        return found[0]

    def close(self) -> None:
        """Stop everything and kill what outlives a node by design; a process left by a node that stopped politely is a failure."""
        for node in reversed(self.nodes.values()):
            node.end()
        left = [line for node in self.nodes.values() if not node.was_cut for line in node.left_behind()]
        for pid in processes_of(self._directory):
            send(pid, signal.SIGKILL)
        wait_until(lambda: not processes_of(self._directory), "all processes are gone", GONE_S)
        shutil.rmtree(self._directory, ignore_errors=True)
        assert not left, f"processes were left behind: {left}"

    def __enter__(self) -> Self:
        self._directory.mkdir(mode=0o700)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write("\n".join(node.log_end() for node in self.nodes.values()) + "\n")
        self.close()

    def _leader_seen_by(self, node: SwarmNode) -> SwarmNode | None:
        try:
            with node.client() as client:
                leaders = [each for each in client.nodes.list() if each.manager_status and each.manager_status.leader]
        except SwarmError:
            return None
        names = {each.description.hostname for each in leaders}
        return next((self.nodes[name] for name in names if name in self.nodes and self.nodes[name].running), None)


SUPERVISOR = (sys.executable, "-P", "-m", "services.cli.supervisor")
SWARMCTL = (sys.executable, "-P", "-m", "services.cli.swarmctl")


def clean_environment() -> dict[str, str]:
    """Return an environment without settings of our own, in which ``services`` is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWARMBUS_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def run_supervisor(*arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run the supervisor command to its end."""
    return _run(*SUPERVISOR, *arguments, timeout_s=timeout_s)


def run_swarmctl(*arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run swarmctl to its end."""
    return _run(*SWARMCTL, *arguments, timeout_s=timeout_s)


def _run(*command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = READY_S) -> None:
    """Wait until a condition holds, for things that nobody tells us about; fails after the deadline."""
    end = CLOCK.monotonic() + timeout_s
    while not condition():
        assert CLOCK.monotonic() < end, f"it did not come true within {timeout_s:g} s that {what}"
        select.select([], [], [], LOOK_AGAIN_S)


def processes_of(state_dir: Path) -> list[int]:
    """Return the live processes that have to do with a state directory: by command line, environment or working directory."""
    return sorted(pid for pid in _pids() if _belongs(pid, str(state_dir)))


def command_of(pid: int) -> str:
    """Return a process's command line, for messages."""
    return f"{pid} {_read(pid, 'cmdline').replace(chr(0), ' ')}"


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _belongs(pid: int, directory: str) -> bool:
    if pid == os.getpid() or _read(pid, "stat").rpartition(")")[2].split()[:1] in ([], ["Z"]):
        return False
    words = [
        *_read(pid, "cmdline").split("\0"),
        *(word.partition("=")[2] for word in _read(pid, "environ").split("\0")),
    ]
    with contextlib.suppress(OSError):
        words.append(os.readlink(f"/proc/{pid}/cwd"))
    return any(word == directory or word.startswith(f"{directory}/") for word in words)


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
