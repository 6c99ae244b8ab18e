"""Join tokens: ``SWMTKN-1-<digest of the root bundle>-<secret>``, both parts in base 36 (SwarmKit's form).

The digest is over the whole PEM bundle as it is stored and sent, so that nobody can append a root of their own on the way.
"""

from __future__ import annotations

import hashlib
import hmac

from services.kit.errors import InvalidArgument, Problem
from services.kit.model.value import Value

PREFIX = "SWMTKN"
VERSION = "1"
DIGEST_DIGITS = 50
SECRET_DIGITS = 25
SECRET_BYTES = 16
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_FORM = f"{PREFIX}-{VERSION}-<{DIGEST_DIGITS} characters>-<{SECRET_DIGITS} characters>"


class Token(Value, frozen=True, kw_only=True):
    """The parts of a join token."""

    digest: str
    """Which root the joiner must meet."""
    secret: str
    """Which role it gets; only the ca knows."""

    def __str__(self) -> str:
        return f"{PREFIX}-{VERSION}-{self.digest}-{self.secret}"


def root_digest(bundle: bytes) -> str:
    """Return the digest of a PEM root bundle as it stands in tokens."""
    return _base36(hashlib.sha256(bundle).digest(), DIGEST_DIGITS)


def make_token(digest: str, entropy: bytes) -> str:
    """Return a token for the root with this digest; ``entropy`` is 16 fresh random bytes."""
    assert len(entropy) == SECRET_BYTES, "a join secret takes 16 bytes"
    return str(Token(digest=digest, secret=_base36(entropy, SECRET_DIGITS)))


def parse_token(text: str) -> Token:
    """Return the token's parts; raises InvalidArgument, which never repeats the token."""
    parts = text.strip().split("-")
    if len(parts) != 4 or parts[0] != PREFIX:
        raise _malformed(f"it must have the form {_FORM}")
    _, version, digest, secret = parts
    if version != VERSION:
        raise _malformed(f"its version is {version[:8]!r}, this release knows version {VERSION}")
    for name, part, length in (("digest", digest, DIGEST_DIGITS), ("secret", secret, SECRET_DIGITS)):
        if len(part) != length:
            raise _malformed(f"its {name} has {len(part)} characters instead of {length}")
        if any(c not in _DIGITS for c in part):
            raise _malformed(f"its {name} has characters other than 0-9 and a-z")
    return Token(digest=digest, secret=secret)


def matches(shown: str, expected: str) -> bool:
    """Compare two tokens in a time that does not depend on where they differ; an empty one matches nothing."""
    equal = hmac.compare_digest(shown.encode(), expected.encode())
    return equal and bool(expected)


def _malformed(reason: str) -> InvalidArgument:
    hint = "copy it whole from `swarmctl cluster inspect` on a manager"
    return InvalidArgument.of((Problem(path="join_token", reason=f"not a join token: {reason}", hint=hint),))


def _base36(data: bytes, digits: int) -> str:
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text.rjust(digits, "0")
