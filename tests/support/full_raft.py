"""The raft process on a disk that is full whenever the file ``full`` lies in its state directory."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

from services.kit.lifecycle.process import run_process
from services.kit.runtime.files import Disk
from services.raft.config import RaftSettings
from services.raft.shell.app import RaftApp

MODULE = "tests.support.full_raft"
FULL = "full"


class FillingDisk(Disk):
    """Refuses what needs room while it is full, after it has taken a part of it."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def write(self, descriptor: int, data: bytes) -> None:
        if self._mark.exists():
            super().write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(descriptor, data)


if __name__ == "__main__":
    directory = Path(os.environ["SWARMBUS_STATE_DIR"])
    run_process("raft", RaftSettings, partial(RaftApp, disk=FillingDisk(directory / FULL)))
