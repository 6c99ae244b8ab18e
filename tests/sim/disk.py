"""Disks that lose power: real files under a temporary directory, of which a power cut keeps what was synced and any part of the rest.

One ``SimDisk`` per node; each run of its raft process gets a ``Mount`` of its own, so that a dead one cannot write any more. What must stay
true: after ``lose_power`` the files are a state that a real disk could be in: synced bytes are there, unsynced ones are there up to any point
(the last one perhaps torn), and a rename, creation or removal is undone unless its directory was synced behind it.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.kit.runtime.files import Disk


class ProcessDied(BaseException):
    """The process ends in the middle of a write; nothing catches it but the simulator."""


@dataclass(slots=True)
class _Renamed:
    source: Path
    target: Path
    before: bytes | None
    """What the target held; None when there was nothing."""


@dataclass(slots=True)
class _Removed:
    path: Path
    before: bytes


class SimDisk:
    """The disk of one node."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.synced: dict[Path, int] = {}
        """Files of which less than everything may be durable, with the size that is."""
        self.pending: list[_Renamed | _Removed] = []
        """Changes of directories that a power cut may undo."""
        self.full = False
        """True while everything that needs room is refused."""
        self.operations = 0
        self.torn = 0
        """What power cuts have taken away."""
        self._fuse: tuple[int, Callable[[], None]] | None = None
        self._mount: Mount | None = None

    def mount(self) -> Mount:
        """Serve the next run of the process."""
        self.kill()
        self._mount = Mount(self)
        return self._mount

    def burn(self, operations: int, die: Callable[[], None]) -> None:
        """Let the power go in the middle of an operation soon to come; ``die`` is called then."""
        self._fuse = (operations, die)

    def spare(self) -> None:
        """Forget a power cut that has not happened yet."""
        self._fuse = None

    def kill(self) -> None:
        """Let the process that writes here be dead: what it still tries does nothing."""
        if self._mount is not None:
            self._mount.let_go()
            self._mount = None

    def lose_power(self) -> None:
        """Forget what was not synced, or a part of it."""
        self.kill()
        self._fuse = None
        for change in reversed(self.pending):
            if self.rng.random() < 0.5:
                # A directory's changes become durable in their order: those before may have, those behind have not.
                break
            self._undo(change)
        self.pending.clear()
        for path, size in sorted(self.synced.items()):
            if path.exists():
                self._tear(path, size)
        self.synced.clear()

    @property
    def blows(self) -> bool:
        """True when the power goes in the next operation."""
        return self._fuse is not None and self._fuse[0] <= 1

    def step(self) -> None:
        """Count an operation; it may be the last."""
        self.operations += 1
        if self._fuse is not None:
            left, die = self._fuse
            self._fuse = (left - 1, die) if left > 1 else None
            if left <= 1:
                die()
                raise ProcessDied
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _undo(self, change: _Renamed | _Removed) -> None:
        self.torn += 1
        if isinstance(change, _Removed):
            change.path.write_bytes(change.before)
            return
        if change.target.exists():
            change.target.rename(change.source)
            self.synced[change.source] = self.synced.pop(change.target, change.source.stat().st_size)
        if change.before is not None:
            change.target.write_bytes(change.before)

    def _tear(self, path: Path, synced: int) -> None:
        data = path.read_bytes()
        if len(data) <= synced:
            return
        self.torn += 1
        kept = self.rng.randint(synced, len(data))
        torn = bytearray(data[:kept])
        if kept > synced and self.rng.random() < 0.3:
            at = self.rng.randrange(synced, kept)
            torn[at:] = bytes(kept - at)
        path.write_bytes(bytes(torn))


class Mount(Disk):
    """The disk as one run of a process sees it."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self._open: dict[int, Path] = {}
        self._alive = True

    def let_go(self) -> None:
        """The process is dead."""
        self._alive = False
        for descriptor in list(self._open):
            self.close(descriptor)

    def create(self, path: Path, mode: int = 0o600) -> int:
        """Begin a file."""
        self._step()
        descriptor = super().create(path, mode)
        self._open[descriptor] = path
        self._disk.synced[path] = 0
        return descriptor

    def write(self, descriptor: int, data: bytes) -> None:
        """Write, or die with a part of it written."""
        if self._alive and self._disk.blows:
            super().write(descriptor, data[: self._disk.rng.randrange(len(data) + 1)])
        self._step()
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Make what was written durable."""
        self._step()
        self._disk.synced[self._open[descriptor]] = os.fstat(descriptor).st_size

    def close(self, descriptor: int) -> None:
        """Let go of a file."""
        if self._open.pop(descriptor, None) is not None:
            os.close(descriptor)

    def cut(self, path: Path, size: int) -> None:
        """Shorten a file."""
        self._step()
        super().cut(path, size)

    def settle(self, path: Path) -> None:
        """Make durable what is read."""
        self._step()
        self._disk.synced[path] = path.stat().st_size

    def replace(self, path: Path, target: Path) -> None:
        """Rename a file."""
        self._step()
        disk = self._disk
        disk.pending.append(_Renamed(path, target, target.read_bytes() if target.exists() else None))
        if path in disk.synced:
            disk.synced[target] = disk.synced.pop(path)
        for descriptor, name in self._open.items():
            if name == path:
                self._open[descriptor] = target
        super().replace(path, target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self._step()
        if path.exists():
            self._disk.pending.append(_Removed(path, path.read_bytes()))
        self._disk.synced.pop(path, None)
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        """Make a directory's changes durable."""
        self._step()
        self._disk.pending = [change for change in self._disk.pending if _directory(change) != path]

    def _step(self) -> None:
        if not self._alive:
            raise ProcessDied
        self._disk.step()


def _directory(change: _Renamed | _Removed) -> Path:
    return change.target.parent if isinstance(change, _Renamed) else change.path.parent
