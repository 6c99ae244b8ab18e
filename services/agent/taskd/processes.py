"""What the kernel tells about processes: identity, exit status without being the parent, who belongs to a task.

A process is named by its pid *and* its start time: pids are used again.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from contextlib import suppress
from typing import NamedTuple

from services.agent.taskd.records import Exit

TASK_ID_VARIABLE = "SWARMBUS_TASK_ID"
"""In the environment of every task: how the members of a task are found where the kernel has no group of them."""

_PR_SET_CHILD_SUBREAPER = 36
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3
_EXIT_CODE_OFFSET = 60


class ProcessStat(NamedTuple):
    """The fields of ``/proc/<pid>/stat`` that we use."""

    state: str
    parent: int
    session: int
    start_time: int
    """Clock ticks since the machine started."""
    exit_status: int
    """As ``wait`` gives it; meaningful for zombies that we may look at."""


def become_subreaper() -> None:
    """Make orphans among our descendants our children."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def boot_id() -> str:
    """Return what tells one run of the machine from another."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def read_stat(pid: int) -> ProcessStat | None:
    """Look at a process; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessStat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]), int(fields[49]))


def exit_of_status(status: int, at: float) -> Exit:
    """Read a wait status."""
    return Exit(signal=status & 0x7F, at=at) if status & 0x7F else Exit(code=status >> 8, at=at)


def reap(pid: int, at: float) -> Exit | None:
    """Take the exit status of our child; None while it lives, ChildProcessError when it is not ours."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return exit_of_status(status, at) if found else None


def exit_of_stranger(pid: int, start_time: int, pidfd: int, at: float) -> Exit | None:
    """Learn how a process ended that is not our child; None while it lives, an unknown exit when it cannot be learned.

    A zombie shows its status to its own user and to root; once reaped, kernels from 6.15 on tell whoever holds a pidfd.
    """
    stat = read_stat(pid)
    if stat is not None and stat.start_time == start_time:
        return exit_of_status(stat.exit_status, at) if stat.state in "ZX" else None
    info = bytearray(64)
    struct.pack_into("=Q", info, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return Exit(at=at, message="task: it ended while nobody held it, and how is not known")
    if struct.unpack_from("=Q", info)[0] & _PIDFD_INFO_EXIT:
        (status,) = struct.unpack_from("=i", info, _EXIT_CODE_OFFSET)
        return exit_of_status(status, at)
    return Exit(at=at, message="task: it ended while nobody held it, and how is not known")


def members(task_id: str, session: int) -> list[int]:
    """Find the processes of a task by the mark in their environment and by their session; the dead are left out.

    ``session`` is 0 unless its leader is, or was a moment ago, known to be the task's: numbers of sessions are used again.
    """
    mark = f"{TASK_ID_VARIABLE}={task_id}\0".encode()
    found = []
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == own:
            continue
        pid = int(entry)
        stat = read_stat(pid)
        if stat is None or stat.state in "ZX":
            continue
        if (session and stat.session == session) or _has_mark(pid, mark):
            found.append(pid)
    return found


def resident_bytes(pid: int) -> int:
    """Return the memory of a process; 0 when it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and its reaped children; 0 when it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read()
    except OSError:
        return False
