"""Secrets and configs of a task as files, in a directory that only the task's user can enter. Used by drivers whose tasks share the node's kernel.

In memory, where the machine has a tmpfs for everyone (``/dev/shm``). Where it has none, configs go to the node's state directory and
a task with secrets is refused: a secret is never on a disk. The driver's fingerprint says which it is.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.agent.core.bundle import Payload, TaskBundle
from services.agent.core.ports import fill_marks
from services.agent.drivers.api import Rejected
from services.kit.model.specs import FileTarget

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the directories below it are ours and closed
SECRETS_VARIABLE: Final = "SWARMBUS_SECRETS_DIR"
CONFIGS_VARIABLE: Final = "SWARMBUS_CONFIGS_DIR"


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A file to write."""

    name: str
    """Below the task's directory."""
    payload: Payload
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStore:
    """Where the files of a node's tasks are."""

    base: Path
    in_memory: bool

    @classmethod
    def of(cls, state_dir: Path) -> FileStore:
        """Choose the place for a node."""
        if os.path.ismount(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK):
            mark = f"{zlib.crc32(str(state_dir.resolve()).encode()):08x}"
            return cls(base=SHARED_MEMORY / f"swarmbus-{os.geteuid()}-{mark}", in_memory=True)
        return cls(base=state_dir / "worker" / "files", in_memory=False)

    def directory(self, task_id: str) -> Path:
        """Return a task's directory."""
        return self.base / task_id

    def write(self, task_id: str, files: Iterable[TaskFile], owner: tuple[int, int] | None) -> None:
        """Write a task's files in place of older ones; raises Rejected and OSError."""
        wanted = tuple(files)
        self.remove(task_id)
        if not wanted:
            return
        if not self.in_memory and any(file.payload.sensitive for file in wanted):
            raise Rejected(f"this node has no file system in memory ({SHARED_MEMORY}) for secrets")
        top = self.directory(task_id)
        _make_private(self.base, 0o711, None)
        _make_private(top, 0o700, owner)
        for file in wanted:
            _write(top / file.name, file.payload.target, file.data)

    def remove(self, task_id: str) -> None:
        """Delete a task's files, and the directory of all when it was the last; nothing there is fine."""
        shutil.rmtree(self.directory(task_id), ignore_errors=True)
        self.tidy()

    def tidy(self) -> None:
        """Delete the directory of all tasks when it is empty."""
        try:
            self.base.rmdir()
        except OSError:
            # Other tasks have files there, or it never existed.
            return


def _make_private(path: Path, mode: int, owner: tuple[int, int] | None) -> None:
    path.mkdir(exist_ok=True, mode=0o700)
    if path.stat(follow_symlinks=False).st_uid != os.geteuid() or path.is_symlink():
        raise Rejected(f"{path} belongs to somebody else")
    if owner is not None:
        os.chown(path, *owner)
    path.chmod(mode)


def _write(path: Path, target: FileTarget, data: bytes) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not (target.uid.isdecimal() and target.gid.isdecimal()):
        raise Rejected(f"file {target.name!r}: its owner must be given in numbers, not as {target.uid}:{target.gid}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), int(target.uid), int(target.gid))
        os.fchmod(file.fileno(), target.mode)


def below_their_directories(bundle: TaskBundle, numbers: Mapping[str, int]) -> Iterator[TaskFile]:
    """Yield the files as a process sees them: ``secrets/<name>`` and ``configs/<name>``; raises Rejected for a name that leads elsewhere."""
    for payload in bundle.payloads:
        name = payload.target.name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Rejected(f"file name {name!r}: a process sees secrets and configs below their own directory only")
        yield TaskFile(f"{payload.kind}s/{name}", payload, fill_marks(payload.data, numbers))


def by_number(bundle: TaskBundle, numbers: Mapping[str, int]) -> Iterator[TaskFile]:
    """Yield the files under their place in the bundle, for those who put each one where it belongs by themselves."""
    for index, payload in enumerate(bundle.payloads):
        yield TaskFile(str(index), payload, fill_marks(payload.data, numbers))
