"""Reading many values from a user without stopping at the first mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from services.kit.errors import InvalidArgument, Problem

ValueT = TypeVar("ValueT")
Parse = Callable[[str, str], ValueT]
"""Takes the text and the path to name in a complaint; raises InvalidArgument."""


class Reading:
    """Keeps every mistake until ``finish``."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def one(self, parse: Parse[ValueT], text: str | None, path: str, default: ValueT) -> ValueT:
        """Return what a text means; the default when there is none or it is wrong."""
        if text is None:
            return default
        try:
            return parse(text, path)
        except InvalidArgument as error:
            self.problems += error.problems
            return default

    def all(self, parse: Parse[ValueT], texts: Iterable[str], path: str) -> tuple[ValueT, ...]:
        """Return what several texts mean, without those that are wrong."""
        found: list[ValueT] = []
        for text in texts:
            try:
                found.append(parse(text, path))
            except InvalidArgument as error:
                self.problems += error.problems
        return tuple(found)

    def refuse(self, path: str, reason: str, value: object = "", hint: str = "") -> None:
        """Note a mistake."""
        self.problems.append(Problem(path=path, reason=reason, value=str(value)[:80], hint=hint))

    def finish(self, more: Iterable[Problem] = ()) -> None:
        """Raise InvalidArgument with all mistakes, if there are any; ``more`` are those found elsewhere."""
        found = (*self.problems, *more)
        if found:
            raise InvalidArgument.of(found)
