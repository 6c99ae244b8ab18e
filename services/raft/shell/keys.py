"""The data key: what log and snapshots of this node are sealed under.

The seam for autolock: whoever can unseal the key hands it to the process through a ``KeyStore``. Today it lies in a file of the
state directory that only its owner can read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from services.kit.errors import DataLoss
from services.kit.runtime.files import REAL_DISK, Disk

KEY_BYTES = 32


class KeyStore(Protocol):
    """Where the data key comes from."""

    def load(self) -> bytes:
        """Return the 32 bytes; raises FailedPrecondition while they are sealed."""


class FileKey:
    """The key in a file, made when there is none."""

    def __init__(self, path: Path, entropy: Callable[[int], bytes], disk: Disk = REAL_DISK) -> None:
        self._disk = disk
        self._path = path
        self._entropy = entropy

    def load(self) -> bytes:
        """Return the key."""
        try:
            key = self._path.read_bytes()
        except FileNotFoundError:
            key = self._entropy(KEY_BYTES)
            self._disk.write_atomic(self._path, key)
        if len(key) != KEY_BYTES:
            raise DataLoss(f"{self._path} holds {len(key)} bytes instead of {KEY_BYTES}: it is no data key")
        return key
