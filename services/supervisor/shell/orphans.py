"""Children of a supervisor that was killed: they stop by themselves, and the next supervisor waits for them.

All children inherit one locked descriptor of ``run/.children``, so the kernel knows whether any of them lives; the file names their
pids, so that their ends can be waited for.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from services.kit.errors import FailedPrecondition
from services.kit.runtime.processes import wait_end

ORPHANS_END_S = 15.0
_FILE_BYTES_MAX = 4096


class ChildrenLock:
    """Held by the supervisor and every child that it starts."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / ".children"
        self.descriptor = -1

    async def acquire(self) -> None:
        """Wait until no child of an earlier run lives; raises FailedPrecondition when they do not end."""
        self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._taken():
            pids = [int(pid) for pid in os.pread(self.descriptor, _FILE_BYTES_MAX, 0).split()]
            await asyncio.gather(*(wait_end(pid, timeout_s=ORPHANS_END_S) for pid in pids))
            if self._taken():
                raise FailedPrecondition(f"processes of an earlier run do not end: {', '.join(map(str, pids))}")

    def record(self, pids: list[int]) -> None:
        """Write down who lives."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, " ".join(map(str, pids)).encode(), 0)

    def release(self) -> None:
        """Let go; idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _taken(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
