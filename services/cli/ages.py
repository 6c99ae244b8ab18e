"""Times as people say them."""

from __future__ import annotations

from datetime import UTC, datetime

_STEPS = ((60.0, 1.0, "second"), (3600.0, 60.0, "minute"), (86400.0, 3600.0, "hour"), (14 * 86400.0, 86400.0, "day"))
_WEEK_S = 7 * 86400.0
_DAYS_FROM_S = 2 * 86400.0


def age(seconds: float) -> str:
    """Return how long something took: ``3 minutes``."""
    if seconds < 1:
        return "a moment"
    for below, unit_s, word in _STEPS:
        if seconds < below:
            count = int(seconds // unit_s)
            return f"{count} {word}" if count == 1 else f"{count} {word}s"
    return f"{int(seconds // _WEEK_S)} weeks"


def ago(then: float, now: float) -> str:
    """Return how long ago something was; clocks that disagree make it a moment."""
    return f"{age(max(0.0, now - then))} ago"


def clock_time(seconds: float) -> str:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def timestamp(seconds: float) -> str:
    """Return a time of day in UTC, or a dash for none."""
    if seconds <= 0:
        return "-"
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """Return a setting in seconds as it is written on the command line: ``1m30s``."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    if seconds >= _DAYS_FROM_S and seconds % 86400 == 0:
        return f"{seconds / 86400:g}d"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = (f"{int(hours)}h" if hours else "", f"{int(minutes)}m" if minutes else "", f"{rest:g}s" if rest else "")
    return "".join(parts)


def size(count: int) -> str:
    """Return bytes in the unit that fits: ``64MiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.4g}{unit}"
        amount /= 1024
    return f"{amount:.4g}TiB"
