"""A YAML file as places: each value knows its line, so that every complaint can name it. The only door to PyYAML.

Texts are taken as written (``yes`` stays ``yes``); variables are filled in as Compose does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from services.cli.parser import did_you_mean
from services.cli.reading import Parse, Reading
from services.kit.errors import InvalidArgument, Problem

ValueT = TypeVar("ValueT")
DEPTH_MAX = 50
NOTHING: Mapping[str, str] = {}
_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-?+])(?P<word>[^{}]*))?\}|(?P<wrong>.?))",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What all places share, whichever file they are from."""

    reading: Reading
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One value of the file."""

    stack: Stack
    node: yaml.Node
    path: str

    @property
    def where(self) -> str:
        """File, line and path, for complaints."""
        mark = self.node.start_mark
        line = f"{mark.name}:{mark.line + 1}"
        return f"{line}: {self.path}" if self.path else line

    @property
    def folder(self) -> Path:
        """Directory of the file it stands in, which relative paths in it begin at."""
        return Path(self.node.start_mark.name).parent

    def refuse(self, reason: str, value: object = "", hint: str = "") -> None:
        """Note a mistake here."""
        self.stack.reading.refuse(self.where, reason, value, hint)

    @property
    def empty(self) -> bool:
        """True for null."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == "tag:yaml.org,2002:null"

    @property
    def is_mapping(self) -> bool:
        """True for a mapping."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """True for a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def fields(self, known: Iterable[str] | None = None, refused: Mapping[str, str] = NOTHING) -> dict[str, Place]:
        """Return the places of a mapping; keys other than the known ones and ``x-…`` are refused, with the reason where there is one."""
        if self.empty:
            return {}
        if not isinstance(self.node, yaml.MappingNode):
            self.refuse("is not a mapping", hint="write it as KEY: VALUE lines")
            return {}
        names = None if known is None else tuple(known)
        found: dict[str, Place] = {}
        for key_node, node in self.node.value:
            key = str(key_node.value)
            place = Place(stack=self.stack, node=node, path=f"{self.path}.{key}" if self.path else key)
            at_key = Place(stack=self.stack, node=key_node, path=place.path)
            if key in found:
                at_key.refuse("stands here a second time")
            elif names is not None and key not in names:
                if key in refused:
                    at_key.refuse(f"is not supported: {refused[key]}")
                elif not key.startswith("x-"):
                    hint = did_you_mean(key, names) or "known here: " + ", ".join(names)
                    at_key.refuse("is not known", hint=hint)
            else:
                found[key] = place
        return found

    def items(self) -> list[Place]:
        """Return the places of a list."""
        if self.empty:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            self.refuse("is not a list", hint="write it as - VALUE lines")
            return []
        return [
            Place(stack=self.stack, node=node, path=f"{self.path}[{index}]")
            for index, node in enumerate(self.node.value)
        ]

    def text(self) -> str:
        """Return a text with its variables filled in."""
        if not isinstance(self.node, yaml.ScalarNode):
            self.refuse("is not a single value")
            return ""
        try:
            return "" if self.empty else interpolate(str(self.node.value), self.stack.environment, self.where)
        except InvalidArgument as error:
            self.stack.reading.problems += error.problems
            return ""

    def parsed(self, parse: Parse[ValueT], default: ValueT) -> ValueT:
        """Return what a text means; the default when it is wrong."""
        before = len(self.stack.reading.problems)
        text = self.text()
        if len(self.stack.reading.problems) > before:
            return default
        return self.stack.reading.one(parse, text, self.where, default)


def load(content: str, name: str) -> yaml.Node:
    """Return the top of a file; its name is in every node's marks. Raises InvalidArgument when it is no YAML."""
    loader = yaml.SafeLoader(content)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            raise InvalidArgument.of((Problem(path=name, reason="is empty"),))
        _flatten(loader, node, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        problem = Problem(path=f"{name}{line}", reason=f"is not YAML: {error.problem or error.context}")
        raise InvalidArgument.of((problem,)) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidArgument.of((Problem(path=name, reason=f"is not YAML: {error}"),)) from None
    finally:
        loader.dispose()
    return node


def _flatten(loader: yaml.SafeLoader, node: yaml.Node, depth: int) -> None:
    """Carry out merge keys (``<<``) everywhere."""
    if depth > DEPTH_MAX:
        raise yaml.YAMLError(f"it is nested deeper than {DEPTH_MAX} levels")
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        for _, value in node.value:
            _flatten(loader, value, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _flatten(loader, value, depth + 1)


def interpolate(text: str, environment: Mapping[str, str], where: str) -> str:
    """Fill in ``$NAME``, ``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}`` and ``${NAME:+other}``; ``$$`` is a dollar sign.

    A variable that is not set and has no default is refused: an empty value by accident is worse than a question.
    """

    def fill(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name = match["bare"] or match["name"]
        if name is None:
            problem = Problem(
                path=where, reason="has a dollar sign that begins no variable", value=text, hint="write $$"
            )
            raise InvalidArgument.of((problem,))
        return _value(name, match["how"] or "", match["word"] or "", environment, where)

    return _VARIABLE.sub(fill, text)


def _value(name: str, how: str, word: str, environment: Mapping[str, str], where: str) -> str:
    value = environment.get(name)
    there = bool(value) if how.startswith(":") else value is not None
    match how[-1:]:
        case "-":
            return (value or "") if there else word
        case "+":
            return word if there else ""
        case _ if there:
            return value or ""
        case _:
            reason = word or f"the variable {name} is not set"
            hint = f"set it, or write ${{{name}:-DEFAULT}}"
            raise InvalidArgument.of((Problem(path=where, reason=reason, hint=hint),))
