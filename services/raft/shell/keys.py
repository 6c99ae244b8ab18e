"""The data key: what log and snapshots of this node are sealed under.

It lies in a file of the state directory that only its owner can read; while the cluster locks its managers the file itself is sealed under the
unlock key, which the supervisor hands over after its user has given it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from services.kit.errors import DataLoss, FailedPrecondition, PermissionDenied
from services.kit.runtime.files import REAL_DISK, Disk
from services.kit.runtime.sealed_key import KEY_BYTES, NONCE_BYTES, is_sealed, seal, unseal


class KeyStore(Protocol):
    """Where the data key comes from."""

    def load(self) -> bytes:
        """Return the 32 bytes; raises FailedPrecondition while they are sealed."""


class FileKey:
    """The key in a file, made when there is none."""

    def __init__(
        self,
        path: Path,
        entropy: Callable[[int], bytes],
        disk: Disk = REAL_DISK,
        *,
        unlock_keys: tuple[bytes, ...] = (),
    ) -> None:
        """``unlock_keys`` are those that the file may be sealed under, the newest first; a new file is sealed under that one."""
        self._disk = disk
        self._path = path
        self._entropy = entropy
        self._unlock_keys = unlock_keys
        self._key = b""
        self.sealed_under = b""
        """Empty while the file is plain."""

    def load(self) -> bytes:
        """Return the key."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            self._key = self._entropy(KEY_BYTES)
            self.seal_under(self._unlock_keys[0] if self._unlock_keys else b"")
            return self._key
        if is_sealed(content):
            self._open(content)
        elif len(content) == KEY_BYTES:
            self._key = content
        else:
            raise DataLoss(f"{self._path} holds {len(content)} bytes instead of {KEY_BYTES}: it is no data key")
        return self._key

    def seal_under(self, unlock_key: bytes) -> None:
        """Have the file sealed under this key, plain when it is empty."""
        sealed = seal(self._key, unlock_key, self._entropy(NONCE_BYTES)) if unlock_key else self._key
        self._disk.write_atomic(self._path, sealed)
        self.sealed_under = unlock_key

    def _open(self, content: bytes) -> None:
        for unlock_key in self._unlock_keys:
            with suppress(PermissionDenied):
                self._key, self.sealed_under = unseal(content, unlock_key), unlock_key
                return
        raise FailedPrecondition(f"{self._path} is sealed under the cluster's unlock key, which was not given")
