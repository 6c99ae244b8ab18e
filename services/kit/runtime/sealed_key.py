"""A manager's data key on its disk: plain, or sealed under the cluster's unlock key. Written by raft, looked at by the supervisor.

What must stay true: a wrong unlock key is told from a right one for certain (the seal is authenticated), and a file is replaced whole.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.kit.errors import DataLoss, PermissionDenied

KEY_BYTES = 32
NONCE_BYTES = 12
_MAGIC = b"SWARMKEY1"
_SEALED_BYTES = len(_MAGIC) + NONCE_BYTES + KEY_BYTES + 16


def is_sealed(content: bytes) -> bool:
    """Tell whether a key file needs an unlock key."""
    return content.startswith(_MAGIC)


def seal(key: bytes, unlock_key: bytes, nonce: bytes) -> bytes:
    """Return the content of a file with this data key; ``nonce`` is 12 fresh random bytes."""
    return _MAGIC + nonce + AESGCM(unlock_key).encrypt(nonce, key, _MAGIC)


def unseal(content: bytes, unlock_key: bytes) -> bytes:
    """Return the data key; raises PermissionDenied for a wrong unlock key."""
    if len(content) != _SEALED_BYTES:
        raise DataLoss(f"the sealed data key has {len(content)} bytes instead of {_SEALED_BYTES}")
    nonce, sealed = content[len(_MAGIC) :][:NONCE_BYTES], content[len(_MAGIC) + NONCE_BYTES :]
    try:
        return AESGCM(unlock_key).decrypt(nonce, sealed, _MAGIC)
    except InvalidTag:
        raise PermissionDenied("this is not the key that the manager is locked with") from None
