"""The state directory: what lies where, with which mode, and the lock that keeps a second supervisor out.

<state>/            0700
  .lock             held by the running supervisor
  state.json        0600   managers this node knows, and where it was reached last
  certificates/     0755   swarm-root-ca.crt, swarm-node.crt, swarm-node.key (0600)
  raft/             0700   the store of a manager
  worker/           0700   the agent's tasks
  run/              0700   sockets of the node's processes
"""

from __future__ import annotations

import shutil
from pathlib import Path

from services.kit.errors import FailedPrecondition
from services.kit.runtime.files import FileLock, make_directory
from services.kit.runtime.sealed_key import is_sealed

DIRECTORIES = (("certificates", 0o755), ("raft", 0o700), ("worker", 0o700), ("run", 0o700))


class Layout:
    """One state directory, locked from ``claim`` to ``release``."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.certificates = state_dir / "certificates"
        self.run_dir = state_dir / "run"
        self.state_file = state_dir / "state.json"
        self._raft = state_dir / "raft"
        self._made = False
        self._made_run = False
        self._claimed = False
        self._lock = FileLock(state_dir / ".lock", "a supervisor")

    def claim(self) -> None:
        """Make the directory and lock it; raises FailedPrecondition when it is in use or cannot be written."""
        try:
            self._made = not self.state_dir.exists()
            self._made_run = not self.run_dir.exists()
            make_directory(self.state_dir)
            self._lock.acquire()
            self._claimed = True
            for name, mode in DIRECTORIES:
                make_directory(self.state_dir / name, mode=mode)
        except OSError as error:
            raise FailedPrecondition(f"the state directory {self.state_dir} cannot be used: {error.strerror}") from None

    def has_store(self) -> bool:
        """Tell whether ``raft/`` has content."""
        return any(self._raft.iterdir())

    def sealed_key(self) -> bytes:
        """Return the store's data key as it lies there when it is sealed, empty when it is plain or there is none."""
        path = self._raft / "data.key"
        content = path.read_bytes() if path.exists() else b""
        return content if is_sealed(content) else b""

    def clear_store(self) -> None:
        """Empty ``raft/``: a node that is no manager any more has no vote to remember."""
        shutil.rmtree(self._raft)
        make_directory(self._raft)

    def release(self) -> None:
        """Let the next supervisor in; idempotent."""
        self._lock.release()

    def withdraw(self) -> None:
        """Undo ``claim`` for a node that never came to be: what is still empty goes, what was there before stays."""
        if not self._claimed:
            return
        if self._made_run:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        for name, _ in DIRECTORIES:
            _remove_empty(self.state_dir / name)
        if self._made and {path.name for path in self.state_dir.iterdir()} == {".lock"}:
            (self.state_dir / ".lock").unlink()
            self.state_dir.rmdir()


def _remove_empty(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
