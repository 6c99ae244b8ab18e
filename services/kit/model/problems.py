"""A growing list of mistakes in a spec; used by everything that validates one."""

from __future__ import annotations

from services.kit.errors import Problem

_SHOWN_MAX = 80


class Problems:
    """A growing list of problems under one path."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, path: str, reason: str, value: object = "", hint: str = "") -> None:
        """Note a mistake."""
        shown = str(value)
        shown = shown if len(shown) <= _SHOWN_MAX else shown[: _SHOWN_MAX - 1] + "…"
        self.found.append(Problem(path=path, reason=reason, value=shown, hint=hint))

    def at_least(self, path: str, value: float, least: float, hint: str = "") -> None:
        """Note a number that is too small."""
        if value < least:
            self.add(path, f"must be at least {least:g}", value, hint)
