"""How people write durations, sizes, numbers and choices; used wherever a text of theirs becomes a spec.

Each function takes the text and the path to name in a complaint, and raises InvalidArgument with one problem.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NoReturn, TypeVar

from services.kit.errors import InvalidArgument, Problem

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)


def refuse(path: str, reason: str, value: object, hint: str = "") -> NoReturn:
    """Raise InvalidArgument with one problem."""
    raise InvalidArgument.of((Problem(path=path, reason=reason, value=str(value)[:80], hint=hint),))


def duration_s(text: str, path: str) -> float:
    """Return seconds: ``1m30s``, ``500ms``, ``0``, or a plain number of seconds."""
    compact = text.strip().replace(" ", "")
    total, position = 0.0, 0
    for match in _DURATION.finditer(compact):
        if match.start() != position:
            break
        total += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if compact and position == len(compact):
        return total
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        return float(compact)
    refuse(path, "is not a duration", text, "write it like 1m30s, 500ms or 10s")


def size_bytes(text: str, path: str) -> int:
    """Return bytes: ``64m``, ``1.5GiB``, ``4096``. Letters count in powers of 1024, as docker has them."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        refuse(path, "is not a size", text, "write it like 64m, 1g or 4096")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def whole(text: str, path: str, *, least: int = 0) -> int:
    """Return a whole number that is at least ``least``."""
    if not re.fullmatch(r"-?\d+", text.strip()):
        refuse(path, "is not a whole number", text)
    number = int(text)
    if number < least:
        refuse(path, f"must be {least} or more", text)
    return number


def boolean(text: str, path: str) -> bool:
    """Read ``true`` or ``false``."""
    match text.lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            refuse(path, "neither true nor false", text, "write true or false")


def choice(kind: type[ChoiceT], text: str, path: str) -> ChoiceT:
    """Return the member of a closed set of words."""
    for member in kind:
        if member.value == text.strip().lower():
            return member
    refuse(path, "is not one of the possible values", text, "use " + ", ".join(member.value for member in kind))
