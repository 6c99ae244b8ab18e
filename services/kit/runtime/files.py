"""Files that must survive a crash: atomic writes, directory syncs, locks."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from services.kit.errors import FailedPrecondition


class Disk:
    """The ways to change files that the store stands on. One object, so that the simulator can forget what was not synced."""

    def create(self, path: Path, mode: int = 0o600) -> int:
        """Begin a file, in place of one that is there; returns its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write everything; OSError when the disk refuses."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Make what was written durable."""
        os.fdatasync(descriptor)

    def close(self, descriptor: int) -> None:
        """Let go of a file."""
        os.close(descriptor)

    def cut(self, path: Path, size: int) -> None:
        """Shorten a file; durable on return."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def settle(self, path: Path) -> None:
        """Make durable what is read from a file that an earlier, perhaps killed process wrote."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, path: Path, target: Path) -> None:
        """Rename a file over another one; durable after ``sync_directory``."""
        path.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already; durable after ``sync_directory``."""
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Make renames, removals and creations in a directory durable."""
        sync_directory(path)

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        """Replace a file so that a crash leaves the old or the new content, never a mix; durable on return."""
        temporary = path.with_name(f".tmp-{path.name}")
        descriptor = self.create(temporary, mode)
        try:
            os.fchmod(descriptor, mode)
            self.write(descriptor, data)
            self.sync(descriptor)
        finally:
            self.close(descriptor)
        self.replace(temporary, path)
        self.sync_directory(path.parent)


REAL_DISK = Disk()


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file so that a crash leaves the old or the new content, never a mix; durable on return."""
    REAL_DISK.write_atomic(path, data, mode=mode)


def sync_directory(path: Path) -> None:
    """Make renames and creations in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, *, mode: int = 0o700) -> None:
    """Create a directory (and its parents) with exactly this mode; an existing one keeps its content."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


class FileLock:
    """An exclusive lock that the kernel drops when the process dies."""

    def __init__(self, path: Path, holder: str) -> None:
        self._path = path
        self._holder = holder
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock or raise FailedPrecondition naming who has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise FailedPrecondition(
                f"{self._path} is held by process {owner}: {self._holder} runs already with this directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
