"""Reading Docker's JSON without losing anything: what was not asked for and says something is refused by its name.

    with reading(value) as body:
        name = body.text("Name")
        spec = body.child("TaskTemplate")

Leaving the block raises Unimplemented for whatever was left over, so a field that swarmbus does not have is never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from services.kit.errors import InvalidArgument, Problem, Unimplemented

Json: TypeAlias = dict[str, Any]
"""An object of Docker's API; only ever at its edge."""

NANO = 1_000_000_000
EMPTY: tuple[object, ...] = (None, "", 0, False, [], {})


class Body:
    """One JSON object, and what of it was read."""

    def __init__(self, value: Mapping[str, Any], path: str) -> None:
        self._value = value
        self._path = path
        self._keys = {key.lower(): key for key in value}
        """Docker takes its keys in letters of either case, and the docker package relies on it."""
        self._read: set[str] = set()
        self._children: dict[str, Body] = {}

    def has(self, key: str) -> bool:
        """Tell whether something is there."""
        return self._found(key) is not None

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        return str(self._take(key, str, default))

    def number(self, key: str, default: int = 0) -> int:
        """Return a whole number."""
        return int(self._take(key, int, default))

    def ratio(self, key: str, default: float = 0.0) -> float:
        """Return a number."""
        return float(self._take(key, (int, float), default))

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return a truth value."""
        return bool(self._take(key, bool, default))

    def seconds(self, key: str, default_s: float = 0.0) -> float:
        """Return a duration, written in nanoseconds."""
        return self.number(key) / NANO if self.has(key) else self._skip(key, default_s)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = self._take(key, list, [])
        if not all(isinstance(item, str) for item in found):
            raise self._wrong(key, "a list of strings")
        return tuple(found)

    def mapping(self, key: str) -> dict[str, str]:
        """Return a mapping of texts."""
        found = self._take(key, dict, {})
        if not all(isinstance(item, str) for item in found.values()):
            raise self._wrong(key, "an object of strings")
        return dict(found)

    def child(self, key: str) -> Body:
        """Return an object, the same one each time; an empty one where there is none."""
        return self._follow(self._take(key, dict, {}), key)

    def children(self, key: str) -> list[Body]:
        """Return a list of objects."""
        found = self._take(key, list, [])
        if not all(isinstance(item, dict) for item in found):
            raise self._wrong(key, "a list of objects")
        return [self._follow(item, f"{key}[{index}]") for index, item in enumerate(found)]

    def ignore(self, *keys: str) -> None:
        """Leave out what says nothing that matters here, or what only an answer has."""
        self._read.update(key.lower() for key in keys)

    def refuse(self, key: str, reason: str) -> Unimplemented:
        """Return the error for a value that is understood and not to be had."""
        return Unimplemented(f"{self._path}{key}: {reason}")

    def leftovers(self) -> list[str]:
        """Return the names of everything that was not read and says something."""
        own = [
            f"{self._path}{key}"
            for key, item in self._value.items()
            if key.lower() not in self._read and item not in EMPTY
        ]
        return own + [name for child in self._children.values() for name in child.leftovers()]

    def _follow(self, value: Mapping[str, Any], key: str) -> Body:
        if key not in self._children:
            self._children[key] = Body(value, f"{self._path}{key}.")
        return self._children[key]

    def _take(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        self._read.add(key.lower())
        value = self._found(key)
        if value is None:
            return default
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            raise self._wrong(key, kind.__name__ if isinstance(kind, type) else "number")
        return value

    def _skip(self, key: str, default: float) -> float:
        self._read.add(key.lower())
        return default

    def _found(self, key: str) -> Any:
        return self._value.get(self._keys.get(key.lower(), key))

    def _wrong(self, key: str, wanted: str) -> InvalidArgument:
        shown = str(self._found(key))[:80]
        return InvalidArgument.of((Problem(path=f"{self._path}{key}", reason=f"is not {wanted}", value=shown),))


@contextmanager
def reading(value: object, path: str = "") -> Iterator[Body]:
    """Read an object; raises InvalidArgument when it is none, Unimplemented for what nobody read."""
    if not isinstance(value, dict):
        raise InvalidArgument("the body is not a JSON object")
    body = Body(value, f"{path}." if path else "")
    yield body
    left = body.leftovers()
    if left:
        raise Unimplemented(f"swarmbus does not support {', '.join(left)}")


def nanoseconds(seconds: float) -> int:
    """Return a duration as Docker writes it."""
    return round(seconds * NANO)


def without_empty(value: Json) -> Json:
    """Return an object without what says nothing, as Docker leaves it out."""
    return {key: item for key, item in value.items() if item not in EMPTY}
