"""Cron expressions: when a scheduled job is due. Used by validation and by the loop that starts runs.

Five fields (minute, hour, day of month, month, day of week; ``*``, lists, ranges, steps, English names of months and days) read in the
wall time of a zone. Day of month and day of week are OR-ed when both are restricted, as cron has always done. A wall time that a change
of clocks leaves out is due when the clocks have moved on; one that comes twice is due the first time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.kit.model.value import Value

YEARS_MAX = 9
"""An expression that is not due within so many years never is (29 February may be eight years away)."""
NAMES = {
    "@yearly": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))


class Cron(Value, frozen=True, kw_only=True):
    """A parsed expression."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    any_day: bool
    any_weekday: bool

    def next_after(self, moment: float, zone: ZoneInfo) -> float | None:
        """Return the first due time behind a moment (both seconds since the epoch), None when there is none."""
        # A wall time may lie an hour ahead of what has passed, where clocks were set back.
        wall = datetime.fromtimestamp(moment, zone).replace(tzinfo=None) - timedelta(hours=3)
        day = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        last = day.replace(year=day.year + YEARS_MAX, day=1)
        while day < last:
            if day.month not in self.months:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                continue
            if self._matches(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        due = day.replace(hour=hour, minute=minute, tzinfo=zone).timestamp()
                        if due > moment:
                            return due
            day += timedelta(days=1)
        return None

    def last_before(self, moment: float, after: float, zone: ZoneInfo) -> float | None:
        """Return the latest due time in (after, moment], None when there is none."""
        start = max(after, moment - LOOK_BACK_S)
        found: float | None = None
        due = self.next_after(start, zone)
        while due is not None and due <= moment:
            found = due
            due = self.next_after(due, zone)
        return found

    def _matches(self, day: datetime) -> bool:
        of_month, of_week = day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return of_month and of_week
        return of_month or of_week


LOOK_BACK_S = 24 * 3600.0
"""Due times that are further back are not made up for, whatever the window."""


def parse_cron(text: str) -> Cron:
    """Return the parsed expression; raises ValueError with the reason, for a person to read."""
    words = NAMES.get(text.strip().lower(), text).split()
    if len(words) != len(_FIELDS):
        raise ValueError("it needs five fields: minute, hour, day of month, month, day of week")
    sets = [_field(word, *field) for word, field in zip(words, _FIELDS, strict=True)]
    cron = Cron(
        minutes=tuple(sorted(sets[0])),
        hours=tuple(sorted(sets[1])),
        days=sets[2],
        months=sets[3],
        weekdays=frozenset(day % 7 for day in sets[4]),
        any_day=words[2].startswith("*"),
        any_weekday=words[4].startswith("*"),
    )
    if cron.next_after(datetime(2000, 1, 1, tzinfo=UTC).timestamp(), ZoneInfo("UTC")) is None:
        raise ValueError("there is no such day")
    return cron


def parse_zone(name: str) -> ZoneInfo:
    """Return a time zone; raises ValueError for a name that is not known."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise ValueError(f"there is no time zone {name!r}") from None


def _field(text: str, name: str, low: int, high: int) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step_text = part.partition("/")
        step = _number(step_text, name, 1, high) if step_text else 1
        if not step_text and part.endswith("/"):
            raise ValueError(f"a step is missing in the {name} {part!r}")
        if span == "*":
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = _number(start, name, low, high)
            last = _number(end, name, low, high) if dash else (high if step_text else first)
        if last < first:
            raise ValueError(f"the {name} {part!r} ends before it begins")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _number(text: str, name: str, low: int, high: int) -> int:
    lowered = text.lower()
    if name == "month" and lowered in _MONTHS:
        return _MONTHS.index(lowered) + 1
    if name == "day of week" and lowered in _DAYS:
        return _DAYS.index(lowered)
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ValueError(f"the {name} {text!r} is not a number from {low} to {high}")
    return int(text)
