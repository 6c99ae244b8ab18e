"""The data keys: what log and snapshots of this node are sealed under, the newest first; new files are sealed under that one.

They lie in a file of the state directory that only its owner can read; while the cluster locks its managers the file itself is sealed under
the unlock key, which the supervisor hands over after its user has given it. What must stay true: a key that lay open on the disk seals
nothing new once managers are locked, and a key is forgotten only when nothing lies under it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from services.kit.errors import FailedPrecondition, PermissionDenied
from services.kit.runtime.files import REAL_DISK, Disk
from services.kit.runtime.sealed_key import KEY_BYTES, KEYS_MAX, NONCE_BYTES, is_sealed, seal, split_keys, unseal


class KeyStore(Protocol):
    """Where the data keys come from."""

    @property
    def older(self) -> tuple[bytes, ...]:
        """Keys of before, under which something may still lie."""

    def load(self) -> bytes:
        """Return the newest key, 32 bytes; raises FailedPrecondition while they are sealed."""

    def forget_older(self) -> None:
        """Nothing lies under an older key any more."""


class FileKey:
    """The keys in a file, made when there is none."""

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
        self._keys: tuple[bytes, ...] = ()
        self.sealed_under = b""
        """Empty while the file is plain."""

    @property
    def newest(self) -> bytes:
        """What new files are sealed under."""
        return self._keys[0]

    @property
    def older(self) -> tuple[bytes, ...]:
        """Keys of before, under which something may still lie."""
        return self._keys[1:]

    def load(self) -> bytes:
        """Return the newest key."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            self._keys = (self._entropy(KEY_BYTES),)
            self._write(self._unlock_keys[0] if self._unlock_keys else b"")
            return self.newest
        if is_sealed(content):
            self._open(content)
        else:
            self._keys = split_keys(content, self._path)
        return self.newest

    def seal_under(self, unlock_key: bytes) -> bool:
        """Have the file sealed under this key, plain when it is empty; True when there is a new data key since it lay open until now."""
        lay_open = bool(unlock_key) and not self.sealed_under
        if lay_open and len(self._keys) < KEYS_MAX:
            self._keys = (self._entropy(KEY_BYTES), *self._keys)
        self._write(unlock_key)
        return lay_open

    def forget_older(self) -> None:
        """Nothing lies under an older key any more."""
        self._keys = self._keys[:1]
        self._write(self.sealed_under)

    def _write(self, unlock_key: bytes) -> None:
        keys = b"".join(self._keys)
        content = seal(keys, unlock_key, self._entropy(NONCE_BYTES)) if unlock_key else keys
        self._disk.write_atomic(self._path, content)
        self.sealed_under = unlock_key

    def _open(self, content: bytes) -> None:
        for unlock_key in self._unlock_keys:
            with suppress(PermissionDenied):
                self._keys, self.sealed_under = split_keys(unseal(content, unlock_key), self._path), unlock_key
                return
        raise FailedPrecondition(f"{self._path} is sealed under the cluster's unlock key, which was not given")
