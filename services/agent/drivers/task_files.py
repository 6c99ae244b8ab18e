"""Secrets and configs of a process task as files, in a directory that only the task's user can enter.

On memory where the machine has a tmpfs for everyone (``/dev/shm``), in the node's state directory otherwise; the driver's fingerprint says which.
"""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.agent.core.bundle import TaskBundle
from services.agent.drivers.api import Rejected
from services.kit.model.specs import FileTarget

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the directories below it are ours and closed
SECRETS_VARIABLE: Final = "SWARMBUS_SECRETS_DIR"
CONFIGS_VARIABLE: Final = "SWARMBUS_CONFIGS_DIR"


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

    def write(self, bundle: TaskBundle, owner: tuple[int, int] | None) -> dict[str, str]:
        """Write a task's files and return the variables that name their directories; nothing when it has none."""
        secrets = {secret.id: secret.spec.data for secret in bundle.secrets}
        configs = {config.id: config.spec.data for config in bundle.configs}
        files: list[tuple[str, FileTarget, bytes]] = [
            *(("secrets", use.target, secrets[use.secret_id]) for use in bundle.container.secrets),
            *(
                ("configs", use.target, configs[use.config_id])
                for use in bundle.container.configs
                if use.target is not None
            ),
        ]
        if not files:
            return {}
        top = self.directory(bundle.id)
        self.remove(bundle.id)
        _make_private(self.base, 0o711, None)
        _make_private(top, 0o700, owner)
        for kind, target, data in files:
            folder = top / kind
            folder.mkdir(mode=0o755, exist_ok=True)
            _write(folder, target, data)
        variables = {SECRETS_VARIABLE: top / "secrets", CONFIGS_VARIABLE: top / "configs"}
        return {name: str(path) for name, path in variables.items() if path.exists()}

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


def _write(folder: Path, target: FileTarget, data: bytes) -> None:
    path = folder / target.name
    if Path(target.name).is_absolute() or ".." in Path(target.name).parts:
        raise Rejected(f"file name {target.name!r}: a process sees secrets and configs below their own directory only")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), int(target.uid), int(target.gid))
        os.fchmod(file.fileno(), target.mode)
