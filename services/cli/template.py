"""Templates of ``--format``: the small part of Go's templates that docker users write.

    {{.Name}} runs {{.Replicas}}          a column of the list, or a field of the model: {{.spec.task.driver}}
    table {{.ID}}\t{{.Name}}              the same as a table with a heading
    {{json .}}  {{json .spec}}            JSON
    {{upper .Name}} {{lower .Name}}       letters

Columns are the list's headings without their blanks, whatever the case of the letters. What is not there is refused, and what was
probably meant is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.cli.parser import UsageError, did_you_mean

_PIECE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_CALL = re.compile(r"(?:(json|upper|lower)\s+)?\.([\w.]*)")
_TABLE = "table "
_FUNCTIONS: Mapping[str, Callable[[Any], str]] = {
    "json": lambda value: json.dumps(value, ensure_ascii=False),
    "upper": lambda value: str(value).upper(),
    "lower": lambda value: str(value).lower(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One ``{{…}}``: a path, and what is done with its value."""

    path: tuple[str, ...]
    function: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template that was read."""

    pieces: tuple[str | Field, ...]
    table: bool = False

    def heading(self) -> str:
        """Return the heading of a table: every field by its name."""
        names = (piece if isinstance(piece, str) else _heading(piece) for piece in self.pieces)
        return "".join(names)

    def render(self, columns: Mapping[str, str], thing: Mapping[str, Any]) -> str:
        """Return the template filled in from a row's columns and the object's own fields."""
        return "".join(piece if isinstance(piece, str) else _shown(piece, columns, thing) for piece in self.pieces)


def read_template(text: str) -> Template:
    """Return the template that a text means; raises UsageError."""
    table = text.startswith(_TABLE)
    body = text.removeprefix(_TABLE).replace("\\t", "\t").replace("\\n", "\n")
    pieces: list[str | Field] = []
    end = 0
    for match in _PIECE.finditer(body):
        call = _CALL.fullmatch(match[1])
        if call is None:
            raise UsageError(
                f"--format does not know {match[0]}", "write {{.Name}}, {{json .}}, {{upper .Name}} or {{lower .Name}}"
            )
        pieces += [
            body[end : match.start()],
            Field(path=tuple(filter(None, call[2].split("."))), function=call[1] or ""),
        ]
        end = match.end()
    pieces.append(body[end:])
    return Template(pieces=tuple(piece for piece in pieces if piece), table=table)


def column_name(heading: str) -> str:
    """Return a heading as a template names it: ``CURRENT STATE`` is CurrentState."""
    return "".join(word if word == "ID" else word.capitalize() for word in heading.split())


def table(rows: Sequence[str]) -> list[str]:
    """Return lines whose fields are separated by tabs as a table."""
    cells = [row.split("\t") for row in rows]
    width = max(len(row) for row in cells)
    widths = [max(len(row[index]) for row in cells if index < len(row)) for index in range(width)]
    return ["   ".join(f"{cell:<{widths[index]}}" for index, cell in enumerate(row)).rstrip() for row in cells]


def _heading(field: Field) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", field.path[-1] if field.path else "")
    return words.upper()


def _shown(field: Field, columns: Mapping[str, str], thing: Mapping[str, Any]) -> str:
    value = _value(field.path, columns, thing)
    if field.function:
        return _FUNCTIONS[field.function](value)
    match value:
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)
        case bool():
            return str(value).lower()
        case _:
            return "" if value is None else str(value)


def _value(path: tuple[str, ...], columns: Mapping[str, str], thing: Mapping[str, Any]) -> Any:
    if not path:
        return thing or dict(columns)
    by_letters = {name.lower(): text for name, text in columns.items()}
    if len(path) == 1 and path[0].lower() in by_letters:
        return by_letters[path[0].lower()]
    value: Any = thing
    for depth, key in enumerate(path):
        if not isinstance(value, dict) or key not in value:
            known = [*(columns if depth == 0 else ()), *(value if isinstance(value, dict) else ())]
            shown = ".".join(path[: depth + 1])
            raise UsageError(f"--format: there is no {shown} here", did_you_mean(key, known) or _known(known))
        value = value[key]
    return value


def _known(names: Sequence[str]) -> str:
    return "there are " + ", ".join(names) if names else "it has no fields"
