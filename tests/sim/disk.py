"""Disks that lose power: real files under a temporary directory, of which a power cut keeps what was synced and any part of the rest.

One ``SimDisk`` per node, handed to its raft process. What must stay true: after ``lose_power`` the files are a state that a real disk
could be in: synced bytes are there, unsynced ones are there up to any point (the last one perhaps torn), and a rename, creation or removal
is undone unless its directory was synced behind it.
"""

from __future__ import annotations

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


class SimDisk(Disk):
    """The disk of one node."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open: dict[int, Path] = {}
        self._synced: dict[Path, int] = {}
        """Files of which less than everything may be durable, with the size that is."""
        self._pending: list[_Renamed | _Removed] = []
        """Changes of directories that a power cut may undo."""
        self._dead = False
        self._full = False
        self._fuse: tuple[int, Callable[[], None]] | None = None
        self.operations = 0
        self.torn = 0
        """Power cuts that took something away."""

    # -- what goes wrong

    def burn(self, operations: int, die: Callable[[], None]) -> None:
        """Let the power go in the middle of an operation soon to come; ``die`` is called then."""
        self._fuse = (operations, die)

    def spare(self) -> None:
        """Forget a power cut that has not happened yet."""
        self._fuse = None

    def fill(self, full: bool) -> None:
        """Refuse everything that needs room."""
        self._full = full

    def kill(self) -> None:
        """Let the process that writes here be dead: what it still tries does nothing."""
        self._dead = True
        for descriptor in list(self._open):
            self._release(descriptor)

    def lose_power(self) -> None:
        """Forget what was not synced, or a part of it."""
        self.kill()
        for change in reversed(self._pending):
            if self._rng.random() < 0.5:
                # A directory's changes become durable in their order: those before may have, those behind have not.
                break
            self._undo(change)
        self._pending.clear()
        for path, size in sorted(self._synced.items()):
            if path.exists():
                self._tear(path, size)
        self._synced.clear()

    def restart(self) -> None:
        """Serve the next process."""
        self._dead = False
        self._fuse = None

    # -- Disk

    def create(self, path: Path, mode: int = 0o600) -> int:
        """Begin a file."""
        self._step()
        descriptor = super().create(path, mode)
        self._open[descriptor] = path
        self._synced[path] = 0
        return descriptor

    def write(self, descriptor: int, data: bytes) -> None:
        """Write, or die with a part of it written."""
        if not self._dead and self._fuse is not None and self._fuse[0] <= 1:
            super().write(descriptor, data[: self._rng.randrange(len(data) + 1)])
        self._step()
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Make what was written durable."""
        self._step()
        self._synced[self._open[descriptor]] = os.fstat(descriptor).st_size

    def close(self, descriptor: int) -> None:
        """Let go of a file."""
        self._release(descriptor)

    def cut(self, path: Path, size: int) -> None:
        """Shorten a file."""
        self._step()
        super().cut(path, size)

    def replace(self, path: Path, target: Path) -> None:
        """Rename a file."""
        self._step()
        self._pending.append(_Renamed(path, target, target.read_bytes() if target.exists() else None))
        if path in self._synced:
            self._synced[target] = self._synced.pop(path)
        for descriptor, name in self._open.items():
            if name == path:
                self._open[descriptor] = target
        super().replace(path, target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self._step()
        if path.exists():
            self._pending.append(_Removed(path, path.read_bytes()))
        self._synced.pop(path, None)
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        """Make a directory's changes durable."""
        self._step()
        self._pending = [change for change in self._pending if _directory(change) != path]

    # -- inside

    def _step(self) -> None:
        if self._dead:
            raise ProcessDied
        self.operations += 1
        if self._full:
            raise OSError(28, "No space left on device")
        if self._fuse is not None:
            left, die = self._fuse
            self._fuse = (left - 1, die)
            if left <= 1:
                self._fuse = None
                die()
                raise ProcessDied

    def _release(self, descriptor: int) -> None:
        if self._open.pop(descriptor, None) is not None:
            os.close(descriptor)

    def _undo(self, change: _Renamed | _Removed) -> None:
        self.torn += 1
        if isinstance(change, _Removed):
            change.path.write_bytes(change.before)
            return
        if change.target.exists():
            change.target.rename(change.source)
            self._synced[change.source] = self._synced.pop(change.target, change.source.stat().st_size)
        if change.before is not None:
            change.target.write_bytes(change.before)

    def _tear(self, path: Path, synced: int) -> None:
        data = path.read_bytes()
        if len(data) <= synced:
            return
        self.torn += 1
        kept = self._rng.randint(synced, len(data))
        torn = bytearray(data[:kept])
        if kept > synced and self._rng.random() < 0.3:
            at = self._rng.randrange(synced, kept)
            torn[at:] = bytes(kept - at)
        path.write_bytes(bytes(torn))


def _directory(change: _Renamed | _Removed) -> Path:
    return change.target.parent if isinstance(change, _Renamed) else change.path.parent
