"""A manager's data keys on its disk: plain, or sealed under the cluster's unlock key. Written by raft, looked at by the supervisor.

What must stay true: a wrong unlock key is told from a right one for certain (the seal is authenticated), and a file is replaced whole.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.kit.errors import DataLoss, PermissionDenied

KEY_BYTES = 32
KEYS_MAX = 8
"""The newest, and those of before that something still lies under; there is no new one beyond this."""
NONCE_BYTES = 12
_MAGIC = b"SWARMKEY1"
_TAG_BYTES = 16
_AROUND_BYTES = len(_MAGIC) + NONCE_BYTES + _TAG_BYTES


def is_sealed(content: bytes) -> bool:
    """Tell whether a key file needs an unlock key."""
    return content.startswith(_MAGIC)


def split_keys(content: bytes, path: Path) -> tuple[bytes, ...]:
    """Return the keys in a plain file, the newest first; raises DataLoss."""
    if not content or len(content) % KEY_BYTES or len(content) > KEYS_MAX * KEY_BYTES:
        raise DataLoss(f"{path} holds {len(content)} bytes instead of {KEY_BYTES}: it is no data key")
    return tuple(content[at : at + KEY_BYTES] for at in range(0, len(content), KEY_BYTES))


def seal(keys: bytes, unlock_key: bytes, nonce: bytes) -> bytes:
    """Return the content of a file with these data keys; ``nonce`` is 12 fresh random bytes."""
    return _MAGIC + nonce + AESGCM(unlock_key).encrypt(nonce, keys, _MAGIC)


def unseal(content: bytes, unlock_key: bytes) -> bytes:
    """Return the data keys; raises PermissionDenied for a wrong unlock key."""
    if (len(content) - _AROUND_BYTES) % KEY_BYTES or len(content) <= _AROUND_BYTES:
        raise DataLoss(f"the sealed data key has {len(content)} bytes, which no number of keys has")
    nonce, sealed = content[len(_MAGIC) :][:NONCE_BYTES], content[len(_MAGIC) + NONCE_BYTES :]
    try:
        return AESGCM(unlock_key).decrypt(nonce, sealed, _MAGIC)
    except InvalidTag:
        raise PermissionDenied("this is not the key that the manager is locked with") from None
