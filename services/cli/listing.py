"""How every list and every page is printed: as a table or page, as ids, as JSON, or through a template."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from services.cli import template
from services.cli.context import Context
from services.cli.output import Cell, Row
from services.cli.plain import plain, to_json


class Identified(Protocol):
    """An object with an id."""

    @property
    def id(self) -> str:
        """The id."""


def show_list(
    context: Context,
    flags: argparse.Namespace,
    things: Sequence[Identified],
    header: Sequence[str],
    rows: Sequence[Row],
) -> None:
    """Print a list as its flags ask for; the rows are those of the things, in the same order."""
    if flags.json or flags.format == "json":
        context.output.line(to_json(tuple(things)))
    elif flags.quiet:
        for thing in things:
            context.output.line(thing.id)
    elif flags.format:
        columns = [template.column_name(heading) for heading in header]
        texts = [dict(zip(columns, map(_text, row), strict=True)) for row in rows]
        _templated(context, flags.format, zip(texts, map(plain, things), strict=True))
    else:
        context.output.table(header, rows)


def show_page(context: Context, flags: argparse.Namespace, thing: object, page: Callable[[], Iterable[str]]) -> bool:
    """Print one object as its flags ask for; True when it was its page, to which more may be added."""
    if flags.json or flags.format == "json":
        context.output.line(to_json(thing))
    elif flags.format:
        _templated(context, flags.format, [({}, plain(thing))])
    else:
        for line in page():
            context.output.line(line)
        return True
    return False


def _templated(context: Context, text: str, things: Iterable[tuple[dict[str, str], dict[str, object]]]) -> None:
    read = template.read_template(text)
    lines = [read.render(columns, thing) for columns, thing in things]
    for line in template.table([read.heading(), *lines]) if read.table else lines:
        context.output.line(line)


def _text(piece: str | Cell) -> str:
    return piece.text if isinstance(piece, Cell) else piece
