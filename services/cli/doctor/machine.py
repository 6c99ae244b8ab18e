"""The machine itself: the state directory and its disk, the clock's own word, limits, and the container engine."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from services.agent.taskd.cgroups import read_mounts
from services.cli.doctor.findings import Finding, fine, problem, warning
from services.kit.runtime.clock import Clock
from services.kit.runtime.files import REAL_DISK

FREE_BYTES_PROBLEM = 64 << 20
FREE_BYTES_WARNING = 1 << 30
FREE_SHARE_WARNING = 0.05
SYNC_SLOW_S = 0.05
"""A store that waits longer than this for its disk makes every change slow, and elections likely."""
FILES_MIN = 4096
ENGINE_TIMEOUT_S = 3.0
_UNSYNCED = 0x40
_STATUS_AT = 5
"""Index of ``status`` among the first words of ``struct timex``: modes, offset, freq, maxerror, esterror, status."""


def state_findings(path: Path) -> Iterator[Finding]:
    """Look at the state directory: there or possible, ours, closed to others, on a disk that takes what it is given."""
    if not path.exists():
        parent = next(each for each in path.parents if each.exists())
        if not os.access(parent, os.W_OK):
            yield problem(
                "state",
                f"{path} is not there and {parent} is not writable",
                f"as root: mkdir -p {path} && chown {os.geteuid()} {path} && chmod 700 {path}; or give --state-dir",
            )
            return
        yield fine("state", f"{path} is not there yet; a node can be made")
        yield from disk_findings(parent)
        return
    found = path.stat()
    if not path.is_dir():
        yield problem("state", f"{path} is not a directory", "name another one with --state-dir")
        return
    if found.st_uid != os.geteuid():
        yield problem(
            "state",
            f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}",
            f"run as that user, or chown -R {os.geteuid()} {path}",
        )
        return
    if stat.S_IMODE(found.st_mode) & 0o077:
        yield problem("state", f"{path} is open to other users: it holds keys", f"chmod 700 {path}")
    else:
        yield fine("state", f"{path} is there and closed to others")
    for key in sorted((path / "certificates").glob("*.key")):
        if stat.S_IMODE(key.stat().st_mode) & 0o077:
            yield problem("state", f"{key} can be read by other users", f"chmod 600 {key}")
    yield from disk_findings(path)


def disk_findings(path: Path) -> Iterator[Finding]:
    """Look at the room on the disk."""
    usage = shutil.disk_usage(path)
    share = usage.free / usage.total if usage.total else 0.0
    said = f"{usage.free >> 20} MiB free ({share:.0%}) at {path}"
    mend = "make room: without it the store cannot be written, and the node ends with exit code 69"
    if usage.free < FREE_BYTES_PROBLEM:
        yield problem("disk", said, mend)
    elif usage.free < FREE_BYTES_WARNING or share < FREE_SHARE_WARNING:
        yield warning("disk", said, mend)
    else:
        yield fine("disk", said)


def sync_findings(path: Path, clock: Clock) -> Iterator[Finding]:
    """Measure how long the disk takes to make a small write durable."""
    probe = path / ".doctor"
    try:
        descriptor = REAL_DISK.create(probe)
        try:
            times = []
            for _ in range(5):
                begun = clock.monotonic()
                REAL_DISK.write(descriptor, b"x" * 4096)
                REAL_DISK.sync(descriptor)
                times.append(clock.monotonic() - begun)
        finally:
            REAL_DISK.close(descriptor)
            REAL_DISK.remove(probe)
    except OSError as error:
        yield problem("disk", f"{path} refuses writes: {error.strerror}", "mount it writable, or make room")
        return
    typical_s = sorted(times)[len(times) // 2]
    said = f"a durable write takes {typical_s * 1000:.1f} ms"
    if typical_s > SYNC_SLOW_S:
        yield warning("disk", said, "put the state directory of a manager on a local, less busy disk")
    else:
        yield fine("disk", said)


def clock_findings() -> Iterator[Finding]:
    """Ask the kernel whether something keeps its clock right."""
    words = (ctypes.c_long * 64)()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(words))
    except (AttributeError, OSError):
        state = -1
    if state < 0:
        yield warning("clock", "the kernel does not say whether the clock is kept right", "run chrony or ntpd")
        return
    status = ctypes.cast(ctypes.byref(words, _STATUS_AT * ctypes.sizeof(ctypes.c_long)), ctypes.POINTER(ctypes.c_int))
    if status[0] & _UNSYNCED:
        yield warning(
            "clock",
            "nothing keeps the clock right: the kernel calls it unsynchronised",
            "run chrony, ntpd or systemd-timesyncd; in a container the host's clock counts, and this may be harmless",
        )
    else:
        yield fine("clock", "it is kept right, says the kernel")


def limit_findings() -> Iterator[Finding]:
    """Look at the limits that a node with many tasks and connections meets first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = hard if hard != resource.RLIM_INFINITY else soft
    if 0 <= allowed < FILES_MIN:
        yield warning(
            "machine", f"a process may open {allowed} files", f"LimitNOFILE={FILES_MIN * 16} in the unit, or ulimit -n"
        )
    else:
        yield fine("machine", f"a process may open {allowed} files")
    mounts = read_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if any(os.access(mount.own, os.W_OK) for mount in mounts):
        yield fine(
            "machine", "control groups can be made: memory and CPU limits of tasks are enforced as far as they go"
        )
    elif os.geteuid() != 0:
        yield fine(
            "machine", "not root, and no control group to write: memory and CPU limits of tasks are not enforced"
        )
    else:
        yield warning(
            "machine",
            "there is no control group to write: memory and CPU limits of tasks are not enforced",
            "mount cgroup v2 at /sys/fs/cgroup; a container needs a writable one of its own",
        )


def engine_findings(addr: str) -> Iterator[Finding]:
    """Ask the container engine whether it lives. Nothing is wrong without one: the other drivers need none."""
    path = Path(addr.removeprefix("unix://"))
    if not path.exists():
        yield fine("engine", f"no container engine at {path}: no tasks of the docker driver here")
        return
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(ENGINE_TIMEOUT_S)
            line.connect(str(path))
            line.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            answer = line.recv(4096)
    except PermissionError:
        yield problem("engine", f"{path} may not be used by this user", "run as root, or join the group of the socket")
    except OSError as error:
        yield problem(
            "engine", f"nobody answers at {path}: {error.strerror or error}", "start it: systemctl start docker"
        )
    else:
        head = answer.partition(b"\r\n")[0].decode(errors="replace")
        if " 200 " in f"{head} ":
            yield fine("engine", f"a container engine answers at {path}")
        else:
            yield problem("engine", f"what answers at {path} is no engine: {head[:60]}", "name it with --engine-addr")
