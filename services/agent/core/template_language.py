"""The part of Go's template language that specs and payloads are written in: reads a text, fills it in.

    {{.Field.Name}} {{"text"}} {{7}} {{function argument ...}} {{a | b}} {{(nested)}} {{- trim -}} {{/* comment */}}
    {{if x}} … {{else if y}} … {{else}} … {{end}}
    functions: index, eq, ne, and, or, not, len, and what the caller adds

Pure. There are no loops, no variables and no way to call anything but the functions that the caller gives, so every template ends.
Depth and size are bounded by the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

TemplateValue = str | bool | int | dict[str, str]
NESTING_MAX = 64

_TOKEN = re.compile(
    r'\s*(?:(?P<field>(?:\.\w+)+)|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>-?\d+)|(?P<word>\w+)|(?P<sign>[()|]))'
)


class BadTemplate(ValueError):
    """The text cannot be read or filled in."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class Names(Protocol):
    """What a template may name."""

    def field(self, name: str) -> TemplateValue | None:
        """Return the value of a field such as ``.Task.ID``, None when there is no such field."""

    def call(self, name: str, arguments: tuple[TemplateValue, ...]) -> TemplateValue | None:
        """Return what a function says, None when there is no such function; raises BadTemplate."""


def fill(text: str, names: Names) -> str:
    """Return the text with its templates filled in; raises BadTemplate with the line."""
    if "{{" not in text:
        return text
    reader = _Blocks(list(_pieces(text)))
    parts: list[str] = []
    for node in reader.block():
        node.write(names, parts)
    return "".join(parts)


# -- pieces: plain text and actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    is_action: bool
    line: int


def _pieces(text: str) -> Iterator[_Piece]:
    position, line, trim = 0, 1, False
    while (start := text.find("{{", position)) >= 0:
        before = text[position:start]
        line += before.count("\n")
        end = _end_of_action(text, start + 2, line)
        action = text[start + 2 : end]
        yield _Piece(_trimmed(before, left=trim, right=action.startswith("- ")), is_action=False, line=line)
        trim = action.endswith(" -")
        yield _Piece(action.removeprefix("- ").removesuffix(" -").strip(), is_action=True, line=line)
        line += action.count("\n")
        position = end + 2
    yield _Piece(_trimmed(text[position:], left=trim, right=False), is_action=False, line=line)


def _trimmed(text: str, *, left: bool, right: bool) -> str:
    if left:
        text = text.lstrip()
    return text.rstrip() if right else text


def _end_of_action(text: str, start: int, line: int) -> int:
    """Find the closing braces, looking past quoted text."""
    quote = ""
    index = start
    while index < len(text):
        character = text[index]
        if quote:
            if character == "\\" and quote == '"':
                index += 1
            elif character == quote:
                quote = ""
        elif character in {'"', "`"}:
            quote = character
        elif text.startswith("}}", index):
            return index
        index += 1
    raise BadTemplate("an action is not closed with }}", line)


# -- blocks -----------------------------------------------------------------------------------------------------------


class _Node(Protocol):
    def write(self, names: Names, parts: list[str]) -> None:
        """Add what it comes to."""


@dataclass(frozen=True, slots=True)
class _Text:
    text: str

    def write(self, names: Names, parts: list[str]) -> None:
        """Add the text."""
        parts.append(self.text)


@dataclass(frozen=True, slots=True)
class _Action:
    expression: _Expression
    line: int

    def write(self, names: Names, parts: list[str]) -> None:
        """Add the value."""
        parts.append(_printed(_value(self.expression, names, self.line)))


@dataclass(frozen=True, slots=True)
class _If:
    condition: _Expression
    line: int
    then: tuple[_Node, ...]
    otherwise: tuple[_Node, ...]

    def write(self, names: Names, parts: list[str]) -> None:
        """Add one of the two."""
        for node in self.then if _value(self.condition, names, self.line) else self.otherwise:
            node.write(names, parts)


class _Blocks:
    """Puts pieces together to a tree."""

    def __init__(self, pieces: list[_Piece]) -> None:
        self._pieces = pieces
        self._next = 0
        self._depth = 0

    def block(self) -> tuple[_Node, ...]:
        """Read to the end of the text."""
        nodes, stop = self._until()
        if stop is not None:
            raise BadTemplate(f"{{{{{stop.text}}}}} without an if", stop.line)
        return nodes

    def _until(self) -> tuple[tuple[_Node, ...], _Piece | None]:
        """Read to an else or end, or to the end of the text."""
        nodes: list[_Node] = []
        while self._next < len(self._pieces):
            piece = self._pieces[self._next]
            self._next += 1
            if not piece.is_action:
                nodes.append(_Text(piece.text))
                continue
            if piece.text.startswith("/*") and piece.text.endswith("*/"):
                continue
            keyword = piece.text.partition(" ")[0]
            if keyword in {"end", "else"}:
                return tuple(nodes), piece
            if keyword == "if":
                nodes.append(self._conditional(piece, piece.text.removeprefix("if")))
            else:
                nodes.append(_Action(_expression(piece.text, piece.line), piece.line))
        return tuple(nodes), None

    def _conditional(self, opened: _Piece, condition: str) -> _If:
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise BadTemplate(f"more than {NESTING_MAX} ifs in each other", opened.line)
        then, stop = self._until()
        otherwise: tuple[_Node, ...] = ()
        if stop is not None and stop.text.startswith("else if "):
            otherwise = (self._conditional(stop, stop.text.removeprefix("else if")),)
        elif stop is not None and stop.text == "else":
            otherwise, stop = self._until()
            if stop is None or stop.text != "end":
                raise BadTemplate("an else has no end", opened.line)
        elif stop is None or stop.text != "end":
            raise BadTemplate("an if has no end", opened.line)
        self._depth -= 1
        return _If(_expression(condition, opened.line), opened.line, then, otherwise)


# -- expressions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Literal:
    value: TemplateValue


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    """A function's name, or a field's with its dot."""
    arguments: tuple[_Expression, ...]


_Expression = _Literal | _Call


def _expression(text: str, line: int) -> _Expression:
    tokens = _tokens(text, line)
    parser = _Parser(tokens, text, line)
    return parser.whole()


class _Parser:
    """Reads the tokens of one action."""

    def __init__(self, tokens: list[tuple[str, str]], text: str, line: int) -> None:
        self._tokens = tokens
        self._text = text
        self._line = line
        self._next = 0
        self._depth = 0

    def whole(self) -> _Expression:
        """Read everything."""
        found = self._pipeline()
        if self._peek() is not None:
            raise self._bad()
        return found

    def _pipeline(self) -> _Expression:
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise self._bad()
        found = self._command()
        while self._peek() == ("sign", "|"):
            self._next += 1
            function = self._command()
            if not isinstance(function, _Call):
                raise self._bad()
            found = _Call(function.name, (*function.arguments, found))
        self._depth -= 1
        return found

    def _command(self) -> _Expression:
        first = self._operand()
        arguments: list[_Expression] = []
        while (token := self._peek()) is not None and token not in {("sign", "|"), ("sign", ")")}:
            arguments.append(self._operand())
        if not arguments:
            return first
        if not isinstance(first, _Call) or first.arguments:
            raise self._bad()
        return _Call(first.name, tuple(arguments))

    def _operand(self) -> _Expression:
        match self._take():
            case ("text", text):
                return _Literal(text)
            case ("number", digits):
                return _Literal(int(digits))
            case ("word", "true" | "false" as word):
                return _Literal(word == "true")
            case (("field" | "word"), name):
                return _Call(name, ())
            case ("sign", "("):
                found = self._pipeline()
                if self._take() != ("sign", ")"):
                    raise self._bad()
                return found
            case _:
                raise self._bad()

    def _peek(self) -> tuple[str, str] | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self) -> tuple[str, str] | None:
        token = self._peek()
        self._next += 1
        return token

    def _bad(self) -> BadTemplate:
        return BadTemplate(f"cannot read {{{{{self._text}}}}}", self._line)


def _tokens(action: str, line: int) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    action = action.strip()
    while position < len(action):
        match = _TOKEN.match(action, position)
        if match is None or match.lastgroup is None:
            raise BadTemplate(f"cannot read {{{{{action}}}}}", line)
        kind, token = match.lastgroup, match[match.lastgroup]
        tokens.append((kind, _unquoted(token, line) if kind == "text" else token))
        position = match.end()
    return tokens


def _unquoted(token: str, line: int) -> str:
    if token.startswith("`"):
        return token[1:-1]
    try:
        return str(json.loads(token))
    except ValueError:
        raise BadTemplate(f"cannot read the text {token}", line) from None


def _value(expression: _Expression, names: Names, line: int) -> TemplateValue:
    if isinstance(expression, _Literal):
        return expression.value
    arguments = tuple(_value(argument, names, line) for argument in expression.arguments)
    try:
        found = _called(expression.name, arguments, names)
    except BadTemplate as error:
        raise BadTemplate(error.reason, line) from None
    if found is None:
        kind = "field" if expression.name.startswith(".") else "function"
        raise BadTemplate(f"there is no {kind} {expression.name}", line)
    return found


def _called(name: str, arguments: tuple[TemplateValue, ...], names: Names) -> TemplateValue | None:
    if name.startswith(".") and not arguments:
        return names.field(name)
    match name, arguments:
        case "index", (dict() as mapping, str() as key):
            return str(mapping.get(key, ""))
        case "eq", (first, *others) if others:
            return any(first == other for other in others)
        case "ne", (first, second):
            return first != second
        case "not", (value,):
            return not value
        case "and", (_, *_):
            return next((value for value in arguments if not value), arguments[-1])
        case "or", (_, *_):
            return next((value for value in arguments if value), arguments[-1])
        case "len", (str() | dict() as sized,):
            return len(sized)
        case (("index" | "eq" | "ne" | "not" | "and" | "or" | "len"), _):
            raise BadTemplate(f"{name} is given what it does not take")
        case _:
            return names.call(name, arguments)


def _printed(value: TemplateValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{text}' for key, text in sorted(value.items()))}]"
    return str(value)
