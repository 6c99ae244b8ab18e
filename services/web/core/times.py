"""Times as Docker writes them (RFC 3339 with nanoseconds) and reads them (seconds, RFC 3339, or nothing)."""

from __future__ import annotations

from datetime import UTC, datetime

from services.kit.errors import InvalidArgument, Problem

ZERO = "0001-01-01T00:00:00Z"


def rfc3339(seconds: float) -> str:
    """Return a moment in UTC; Go's zero time for none."""
    if seconds <= 0:
        return ZERO
    whole = int(seconds)
    nanos = round((seconds - whole) * 1e9) % 1_000_000_000
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


def moment(text: str, path: str) -> float:
    """Return seconds since the epoch; 0 for an empty text."""
    if not text:
        return 0.0
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise InvalidArgument.of((Problem(path=path, reason="is not a time", value=text[:80]),)) from None
