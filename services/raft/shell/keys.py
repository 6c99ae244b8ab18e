"""The data key: what log and snapshots of this node are sealed under.

It lies in a file of the state directory that only its owner can read; while the cluster locks its managers the file itself is sealed under the
unlock key, which the supervisor hands over after its user has given it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from services.kit.errors import DataLoss, FailedPrecondition
from services.kit.runtime.files import REAL_DISK, Disk
from services.kit.runtime.sealed_key import KEY_BYTES, NONCE_BYTES, is_sealed, seal, unseal


class KeyStore(Protocol):
    """Where the data key comes from."""

    def load(self) -> bytes:
        """Return the 32 bytes; raises FailedPrecondition while they are sealed."""


class FileKey:
    """The key in a file, made when there is none."""

    def __init__(
        self, path: Path, entropy: Callable[[int], bytes], disk: Disk = REAL_DISK, *, unlock_key: bytes = b""
    ) -> None:
        self._disk = disk
        self._path = path
        self._entropy = entropy
        self._unlock_key = unlock_key
        """What the file is sealed under, empty while it is plain."""
        self._key = b""

    def load(self) -> bytes:
        """Return the key."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            self._key = self._entropy(KEY_BYTES)
            self._write()
            return self._key
        self._key = self._open(content)
        return self._key

    def seal_under(self, unlock_key: bytes) -> bool:
        """Have the file sealed under this key, plain when it is empty; False when it is so already."""
        if unlock_key == self._unlock_key:
            return False
        self._unlock_key = unlock_key
        self._write()
        return True

    def _open(self, content: bytes) -> bytes:
        if is_sealed(content):
            if not self._unlock_key:
                raise FailedPrecondition(f"{self._path} is sealed under the cluster's unlock key")
            return unseal(content, self._unlock_key)
        if len(content) != KEY_BYTES:
            raise DataLoss(f"{self._path} holds {len(content)} bytes instead of {KEY_BYTES}: it is no data key")
        self._unlock_key = b""
        return content

    def _write(self) -> None:
        sealed = seal(self._key, self._unlock_key, self._entropy(NONCE_BYTES)) if self._unlock_key else self._key
        self._disk.write_atomic(self._path, sealed)
