"""What a command prints: lines, tables, JSON and errors; colour only for people who look at a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TextIO

WIDTH = 100
"""Columns where nothing can say how many there are."""


class Style(StrEnum):
    """How a piece of text stands out."""

    PLAIN = ""
    GOOD = "32"
    BAD = "31"
    WAITING = "33"
    FAINT = "2"


class Cell(NamedTuple):
    """A piece of a table."""

    text: str
    style: Style = Style.PLAIN


Row = Sequence[str | Cell]


@dataclass
class Output:
    """Where a command writes to. Results go to ``out``, progress and mistakes to ``err``."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    on_interrupt: str = ""
    """What to tell a user who interrupts now."""

    def line(self, text: str = "") -> None:
        """Print a line of the result."""
        self.out.write(text + "\n")

    def note(self, text: str) -> None:
        """Print a line beside the result."""
        self.err.write(text + "\n")
        self.err.flush()

    def table(self, header: Sequence[str], rows: Iterable[Row]) -> None:
        """Print a table."""
        colour = has_colour(self.out)
        for line in table_lines(header, rows, colour=colour):
            self.line(line)

    def error(self, message: str, hints: Iterable[str] = ()) -> None:
        """Print a mistake and how to mend it."""
        label = paint("error:", Style.BAD, colour=has_colour(self.err))
        self.note(f"{label} {message}")
        for hint in hints:
            self.note(f"  hint: {hint}")

    @property
    def width(self) -> int:
        """Columns of the terminal that progress is shown on, whatever standard output is."""
        try:
            return os.get_terminal_size(self.err.fileno()).columns or WIDTH
        except (OSError, ValueError):
            return WIDTH


def has_colour(stream: TextIO) -> bool:
    """Tell whether a stream shows colours and wants them (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: Style, *, colour: bool) -> str:
    """Return the text in its style."""
    return f"\x1b[{style.value}m{text}\x1b[0m" if colour and style is not Style.PLAIN else text


def table_lines(header: Sequence[str], rows: Iterable[Row], *, colour: bool = False) -> list[str]:
    """Return a table's lines: columns as wide as their longest text, three blanks between them, no blanks at the end."""
    cells = [[_cell(piece) for piece in row] for row in (header, *rows)]
    widths = [max(len(row[column].text) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        parts = [
            paint(cell.text, cell.style, colour=colour) + " " * (width - len(cell.text))
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("   ".join(parts).rstrip())
    return lines


def _cell(piece: str | Cell) -> Cell:
    cell = piece if isinstance(piece, Cell) else Cell(piece)
    return Cell(clean(cell.text), cell.style)


def clean(text: str) -> str:
    """Return a text on one line, control characters as blanks: an error message may not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
