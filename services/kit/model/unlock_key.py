"""The unlock key as people see it: ``SWMKEY-1-`` and 32 bytes in base 64 without padding (SwarmKit's form)."""

from __future__ import annotations

import base64
import binascii

from services.kit.errors import InvalidArgument, Problem

PREFIX = "SWMKEY-1-"
KEY_BYTES = 32


def format_unlock_key(key: bytes) -> str:
    """Return a key in its written form, empty for no key."""
    return f"{PREFIX}{base64.b64encode(key).decode().rstrip('=')}" if key else ""


def parse_unlock_key(text: str) -> bytes:
    """Return the bytes of a written key; raises InvalidArgument, which never repeats the key."""
    text = text.strip()
    if not text.startswith(PREFIX):
        raise _malformed(f"it begins with {PREFIX}")
    encoded = text.removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("it is not whole, or has characters that no key has") from None
    if len(key) != KEY_BYTES:
        raise _malformed(f"it holds {len(key)} bytes instead of {KEY_BYTES}")
    return key


def _malformed(reason: str) -> InvalidArgument:
    hint = "`swarmctl cluster unlock-key` on a manager that runs shows it"
    return InvalidArgument.of((Problem(path="unlock_key", reason=f"not an unlock key: {reason}", hint=hint),))
