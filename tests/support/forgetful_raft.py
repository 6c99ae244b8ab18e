"""The raft process on a disk that loses power: it notes how much of each file is durable, and ``lose_power`` takes the rest away.

A killed process leaves behind whatever it wrote, because the kernel still has it. A power cut does not: here a file keeps what the last finished
fdatasync covered, and of the rest a random part, the end of it perhaps garbled.
"""

from __future__ import annotations

import os
import random
import select
from functools import partial
from pathlib import Path

from services.kit.lifecycle.process import run_process
from services.kit.runtime.files import Disk
from services.raft.config import RaftSettings
from services.raft.shell.app import RaftApp
from services.raft.shell.calm import keep_calm

MODULE = "tests.support.forgetful_raft"
NOTES = "durable"
_SIZE_BYTES = 8
SLOW_S = 0.002
"""What a sync takes at least, as on a slow disk: so that kills fall between a write and its sync."""


class NotingDisk(Disk):
    """A real disk, and a note beside it for each file that is being written."""

    def __init__(self, notes: Path) -> None:
        notes.mkdir(exist_ok=True)
        self._notes = notes
        self._open: dict[int, tuple[Path, int]] = {}
        """Path and note by descriptor."""

    def create(self, path: Path, mode: int = 0o600) -> int:
        descriptor = super().create(path, mode)
        note = os.open(self._note(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.pwrite(note, bytes(_SIZE_BYTES), 0)
        self._open[descriptor] = (path, note)
        return descriptor

    def sync(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        select.select([], [], [], SLOW_S)
        super().sync(descriptor)
        os.pwrite(self._open[descriptor][1], size.to_bytes(_SIZE_BYTES, "big"), 0)

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        os.close(self._open.pop(descriptor)[1])

    def replace(self, path: Path, target: Path) -> None:
        super().replace(path, target)
        self._note(path).replace(self._note(target))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._note(path).unlink(missing_ok=True)

    def cut(self, path: Path, size: int) -> None:
        super().cut(path, size)
        self._note(path).write_bytes(size.to_bytes(_SIZE_BYTES, "big"))

    def settle(self, path: Path) -> None:
        size = path.stat().st_size
        super().settle(path)
        self._note(path).write_bytes(size.to_bytes(_SIZE_BYTES, "big"))

    def _note(self, path: Path) -> Path:
        return self._notes / str(path.relative_to(self._notes.parent)).replace("/", ":")


def lose_power(state_dir: Path, rng: random.Random) -> int:
    """Take away what is not durable, after the process was killed; returns how many files lost something or were garbled."""
    harmed = 0
    for note in sorted((state_dir / NOTES).iterdir()):
        path = state_dir / note.name.replace(":", "/")
        if not path.exists():
            continue
        durable = int.from_bytes(note.read_bytes(), "big")
        data = path.read_bytes()
        if len(data) <= durable:
            continue
        kept = bytearray(data[: durable + rng.randint(0, len(data) - durable)])
        if len(kept) > durable and rng.random() < 0.3:
            kept[rng.randrange(durable, len(kept))] ^= 0xFF
        path.write_bytes(bytes(kept))
        harmed += 1
    return harmed


if __name__ == "__main__":
    keep_calm()
    directory = Path(os.environ["SWARMBUS_STATE_DIR"])
    run_process("raft", RaftSettings, partial(RaftApp, disk=NotingDisk(directory / NOTES)))
