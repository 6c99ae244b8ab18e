"""A taskd of a test's own: started in a temporary directory, asked through the product's client, and gone without a trace afterwards."""

from __future__ import annotations

import asyncio
import binascii
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.agent.drivers.api import Line
from services.agent.drivers.task_logs import LogReader
from services.agent.drivers.taskd_client import MAIN_FILE, TaskdClient
from services.agent.taskd.records import TaskInfo, TaskSpec
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from tests.support.running import eventually, run_async

LIMIT_S = 20.0
TEST_LIMIT_S = 50.0
PATH = "PATH=/usr/local/bin:/usr/bin:/bin"


class Home:
    """A worker directory with its taskd."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "taskd.sock"
        self._owners: list[TaskOwner] = []
        self._by_hand: subprocess.Popen[bytes] | None = None
        self.client = self.new_client()

    def new_client(self, *, idle_exit_s: float = 60.0) -> TaskdClient:
        """Return one more client, as a restarted agent would have."""
        owner = TaskOwner("test")
        self._owners.append(owner)
        return TaskdClient(
            worker_dir=self.root,
            socket=self.socket,
            clock=SystemClock(),
            log=Log("test"),
            tasks=owner,
            idle_exit_s=idle_exit_s,
        )

    def spec(self, task_id: str, *command: str) -> TaskSpec:
        """Return a task whose processes can be told from all others of the machine."""
        return TaskSpec(task_id, command, env=(PATH, f"TEST_HOME={self.root}"))

    def shell(self, task_id: str, script: str) -> TaskSpec:
        """Return a task that runs a shell script."""
        return self.spec(task_id, "sh", "-c", script)

    def log(self, task_id: str) -> str:
        """Return all that a task has written so far."""
        reader = LogReader(self.root / "tasks" / task_id)
        lines: list[Line] = []
        while batch := reader.read():
            lines += batch
        lines += reader.finish()
        return "\n".join(line.data.decode() for line in lines)

    def processes(self) -> list[int]:
        """Return every living process of the tasks and of taskd."""
        mark = str(self.root).encode()
        return [pid for pid in living() if pid != os.getpid() and mark in _command_and_environment(pid)]

    def taskd(self) -> int:
        """Return the pid of the running taskd."""
        (pid,) = (pid for pid in self.processes() if b"taskd/__main__.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
        return pid

    def start_as(self, user: int) -> None:
        """Start taskd as another user, by hand; the clients find it running."""
        tasks_dir = self.root / "tasks"
        tasks_dir.mkdir(mode=0o700)
        for path in (self.root, tasks_dir):
            os.chown(path, user, user)
        ready, ready_in_child = os.pipe()
        arguments = (f"--tasks-dir={tasks_dir}", f"--socket={self.socket}", f"--ready-fd={ready_in_child}")
        command = (interpreter_for(user), "-I", "-S", "-E", str(MAIN_FILE), *arguments)
        with (self.root / "taskd.log").open("ab") as log:
            self._by_hand = subprocess.Popen(
                command, user=user, group=user, extra_groups=(), pass_fds=(ready_in_child,), stderr=log, env={}
            )
        os.close(ready_in_child)
        assert os.read(ready, 1), "taskd started"
        os.close(ready)

    async def close(self) -> None:
        """Close all clients."""
        for owner in self._owners:
            await owner.close()
        if self._by_hand is not None:
            self._by_hand.wait(LIMIT_S)


@asynccontextmanager
async def taskd_home(user: int | None = None) -> AsyncIterator[Home]:
    """Give a home; afterwards everything in it is stopped, and it is checked that nothing is left.

    With ``user``, which only root may give, taskd runs as that user.
    """
    root = Path(tempfile.mkdtemp(prefix="taskd-"))
    home = Home(root)
    try:
        if user is not None:
            home.start_as(user)
        yield home
        await home.new_client().stop_all(0.0)
        await eventually(lambda: not home.processes())
        assert [entry.name for entry in (root / "tasks").iterdir()] == [".lock"]
        assert not home.socket.exists()
        assert not groups_of(root), "control groups are left"
    finally:
        for pid in home.processes():
            os.kill(pid, signal.SIGKILL)
        await home.close()
        for group in groups_of(root):
            remove_groups(group)
        shutil.rmtree(root)


async def ended(home: Home, spec: TaskSpec) -> TaskInfo:
    """Run a task to its end."""
    await home.client.start(spec)
    async with asyncio.timeout(LIMIT_S):
        return await home.client.wait(spec.id)


def living() -> list[int]:
    """Return the pids of all processes that are not zombies."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state not in "ZX":
                found.append(int(entry))
    return found


def groups_of(root: Path) -> list[Path]:
    """Return the control groups of a taskd."""
    name = f"swarmbus-{binascii.crc32(os.path.realpath(root / 'tasks').encode()):08x}"
    # A walk goes past groups that vanish meanwhile; others on this machine come and go.
    return [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup") if Path(folder).name == name]


def remove_groups(top: Path) -> None:
    """Remove what a failed test left."""
    for folder, _, _ in os.walk(top, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)


def run(work: Callable[[Home], Coroutine[None, None, None]], *, user: int | None = None) -> None:
    """Run an async test in a home of its own."""

    async def within() -> None:
        async with taskd_home(user) as home:
            await work(home)

    run_async(within(), timeout_s=TEST_LIMIT_S)


def interpreter_for(user: int) -> str:
    """Return a Python 3.11 or newer that a user may run, or nothing: interpreters in a home directory often cannot be."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        check = (path, "-I", "-S", "-c", "import sys; sys.exit(sys.version_info < (3, 11))")
        with suppress(OSError):
            if (
                subprocess.run(
                    check, user=user, group=user, extra_groups=(), check=False, capture_output=True
                ).returncode
                == 0
            ):
                return path
    return ""


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    return pid in living()


def _command_and_environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
