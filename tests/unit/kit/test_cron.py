"""Cron expressions: what is accepted, and when it is due."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.kit.model.cron import parse_cron, parse_zone


def due_times(text: str, start: str, count: int, zone: str = "UTC") -> list[str]:
    cron, place = parse_cron(text), parse_zone(zone)
    moment = datetime.fromisoformat(start).replace(tzinfo=place).timestamp()
    found = []
    for _ in range(count):
        due = cron.next_after(moment, place)
        assert due is not None
        assert due > moment
        moment = due
        found.append(datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/15 * * * *", ["2026-01-01 00:15", "2026-01-01 00:30", "2026-01-01 00:45"]),
        ("30 4 * * mon-fri", ["2026-01-01 04:30", "2026-01-02 04:30", "2026-01-05 04:30"]),
        ("0 0 29 feb *", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        ("0 12 13 * fri", ["2026-01-02 12:00", "2026-01-09 12:00", "2026-01-13 12:00"]),
        ("0 0 31 * *", ["2026-01-31 00:00", "2026-03-31 00:00", "2026-05-31 00:00"]),
        ("5,10 1-2 * * *", ["2026-01-01 01:05", "2026-01-01 01:10", "2026-01-01 02:05"]),
        ("0 0 * * 7", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00", "2026-04-01 00:00"]),
    ],
)
def test_an_expression_is_due_when_cron_says_so(text: str, expected: list[str]) -> None:
    assert due_times(text, "2026-01-01T00:00", 3) == expected


def test_a_time_that_the_clocks_leave_out_is_due_once_when_they_have_moved_on() -> None:
    assert due_times("30 2 * * *", "2026-03-28T12:00", 2, "Europe/Berlin") == ["2026-03-29 01:30", "2026-03-30 00:30"]


def test_a_time_that_comes_twice_is_due_once() -> None:
    assert due_times("30 2 * * *", "2026-10-24T12:00", 2, "Europe/Berlin") == ["2026-10-25 00:30", "2026-10-26 01:30"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "5-1 * * * *",
        "*/0 * * * *",
        "0 0 30 2 *",
        "x * * * *",
    ],
)
def test_a_mistake_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_cron(text)


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        parse_zone("Mars/Olympus")


def test_the_latest_due_time_of_a_span_is_found() -> None:
    cron, zone = parse_cron("0 * * * *"), parse_zone("UTC")
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert cron.last_before(start + 3 * 3600 + 60, start, zone) == start + 3 * 3600
    assert cron.last_before(start + 60, start, zone) is None
