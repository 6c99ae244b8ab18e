"""What the doctor finds, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

from services.kit.model.value import Value


class Level(StrEnum):
    """How bad it is."""

    FINE = "fine"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Value, frozen=True, kw_only=True):
    """One thing that was looked at."""

    about: str
    """state, disk, ports, addresses, managers, clock, certificate, engine, machine or processes."""
    level: Level
    what: str
    mend: str = ""
    """What would mend it; empty when nothing is wrong."""


def fine(about: str, what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(about=about, level=Level.FINE, what=what)


def warning(about: str, what: str, mend: str) -> Finding:
    """Return something that works, but not well, or not for long."""
    return Finding(about=about, level=Level.WARNING, what=what, mend=mend)


def problem(about: str, what: str, mend: str) -> Finding:
    """Return something that keeps the node from working."""
    return Finding(about=about, level=Level.PROBLEM, what=what, mend=mend)


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the lines that people read."""
    worst: dict[Level, int] = dict.fromkeys(Level, 0)
    for each in findings:
        worst[each.level] += 1
        yield f"{each.level.value:<8} {each.about:<12} {each.what}"
        if each.mend:
            yield f"{'':<21} → {each.mend}"
    yield ""
    if worst[Level.PROBLEM] or worst[Level.WARNING]:
        yield f"{worst[Level.PROBLEM]} problems, {worst[Level.WARNING]} warnings"
    else:
        yield "nothing is wrong"
