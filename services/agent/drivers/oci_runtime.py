"""An OCI runtime's command (runc or crun): found, asked, its containers' control groups read. Used by the oci driver."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.agent.drivers.api import Failed, Stats, Temporary

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH: Final = 2
PROGRAMS: Final = ("runc", "crun")
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CALL_TIMEOUT_S: Final = 30.0
CALLS_MAX: Final = 4
CGROUP_ROOT: Final = Path("/sys/fs/cgroup")


def find_runtime() -> str | None:
    """Return the first runtime that this node has."""
    return next((path for name in PROGRAMS if (path := shutil.which(name, path=SYSTEM_PATH)) is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call came back with."""

    code: int
    output: str
    problem: str


class Runtime:
    """A runtime and the containers of one node."""

    def __init__(self, program: str, root: Path, cgroup: str) -> None:
        self.program = program
        self.root = root
        self._cgroup = cgroup
        self._calls = asyncio.Semaphore(CALLS_MAX)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return a command line of the runtime."""
        return (self.program, "--root", str(self.root), *arguments)

    def cgroup(self, task_id: str) -> str:
        """Return the path of a container's control group, below the root of each hierarchy."""
        return f"{self._cgroup}/{task_id}"

    async def version(self) -> str:
        """Return the runtime's version; raises Failed."""
        answer = await self.call("--version")
        if answer.code != 0:
            raise Failed(answer.problem)
        found = re.search(r"version (\S+)", answer.output)
        return f"{Path(self.program).name} {found[1] if found else 'unknown'}"

    async def kill(self, task_id: str, signal_name: str) -> bool:
        """Send a signal to a container's main process; False when there is none."""
        return (await self.call("kill", task_id, signal_name)).code == 0

    async def delete(self, task_id: str) -> None:
        """Delete a container, ending it if need be; nothing there: success. Raises Temporary."""
        answer = await self.call("delete", "--force", task_id)
        if answer.code != 0 and "does not exist" not in answer.problem:
            raise Temporary(answer.problem)
        for base in _hierarchies():
            # It stays while other containers are in it.
            with contextlib.suppress(OSError):
                (base / self._cgroup.lstrip("/")).rmdir()

    async def call(self, *arguments: str) -> Answer:
        """Run the runtime and return its answer; raises Temporary when it hangs."""
        async with self._calls:
            process = await asyncio.create_subprocess_exec(
                *self.command(*arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": SYSTEM_PATH},
            )
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    output, problem = await process.communicate()
            except TimeoutError:
                raise Temporary(f"{self.program} {arguments[0]} hangs") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        return Answer(
            code=process.returncode or 0,
            output=output.decode(errors="replace"),
            problem=problem.decode(errors="replace").strip(),
        )

    def ran_out_of_memory(self, task_id: str) -> bool:
        """Tell whether the kernel killed something in a container for its memory; its groups are there until ``delete``."""
        for group in _groups(self.cgroup(task_id)):
            for name in ("memory.oom_control", "memory.events"):
                if int(_keyed(group / name).get("oom_kill", "0")):
                    return True
        return False

    def stats(self, task_id: str) -> Stats:
        """Measure a container."""
        cpu_s, memory, pids = 0.0, 0, 0
        for group in _groups(self.cgroup(task_id)):
            if usage := _read(group / "cpuacct.usage"):
                cpu_s = int(usage) / 1e9
            elif usage := _keyed(group / "cpu.stat").get("usage_usec", ""):
                cpu_s = int(usage) / 1e6
            memory = int(_read(group / "memory.usage_in_bytes") or _read(group / "memory.current") or memory)
            pids = int(_read(group / "pids.current") or pids)
        return Stats(cpu_s=cpu_s, memory_bytes=memory, pids=pids)


def _hierarchies() -> Iterator[Path]:
    """Yield where control groups may be: the one tree of v2, or each controller's of v1."""
    yield CGROUP_ROOT
    yield from sorted(path for path in CGROUP_ROOT.iterdir() if path.is_dir())


def _groups(cgroup: str) -> Iterator[Path]:
    """Yield a container's directories in all hierarchies, v2 or v1."""
    for base in _hierarchies():
        path = base / cgroup.lstrip("/")
        if path.is_dir():
            yield path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _keyed(path: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in _read(path).splitlines() if " " in line)


def mount_overlay(target: Path, options: str) -> None:
    """Mount an overlay; raises OSError."""
    if _LIBC.mount(b"overlay", os.fsencode(target), b"overlay", 0, options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path) -> None:
    """Unmount what is mounted there, even when it is in use; nothing there is fine."""
    while os.path.ismount(target):
        if _LIBC.umount2(os.fsencode(target), _MNT_DETACH) != 0:
            return


def is_root() -> bool:
    """Tell whether containers can be made at all."""
    return os.geteuid() == 0
