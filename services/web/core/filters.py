"""The ``filters`` of Docker's lists: JSON, ``{"name": {"web": true}}`` or ``{"name": ["web"]}``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from services.kit.errors import InvalidArgument

Wanted = Mapping[str, tuple[str, ...]]


def read_filters(text: str, known: Iterable[str]) -> Wanted:
    """Return the values by filter; raises InvalidArgument in Docker's words."""
    try:
        given = json.loads(text) if text else {}
    except ValueError:
        raise InvalidArgument("invalid filter: it is not JSON") from None
    if not isinstance(given, dict):
        raise InvalidArgument("invalid filter: it is not a JSON object")
    accepted = frozenset(known)
    found: dict[str, tuple[str, ...]] = {}
    for name, values in given.items():
        if name not in accepted:
            raise InvalidArgument(f"invalid filter '{name}'")
        if isinstance(values, dict):
            values = [value for value, on in values.items() if on]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise InvalidArgument(f"invalid filter '{name}': its values are no list of strings")
        found[name] = tuple(values)
    return found


def among(wanted: Wanted, name: str, *values: str) -> bool:
    """Tell whether one of the values is asked for, or nothing is."""
    asked = wanted.get(name, ())
    return not asked or any(value in asked for value in values)


def begins(wanted: Wanted, name: str, value: str) -> bool:
    """Tell whether a value begins as asked, or nothing is asked."""
    asked = wanted.get(name, ())
    return not asked or any(value.startswith(each) for each in asked)


def labelled(wanted: Wanted, name: str, labels: Mapping[str, str]) -> bool:
    """Tell whether all labels asked for are there; ``key`` alone asks for any value."""
    for each in wanted.get(name, ()):
        key, equals, value = each.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def switch(wanted: Wanted, name: str) -> bool | None:
    """Return a truth value that is asked for; None when nothing is."""
    asked = wanted.get(name, ())
    if not asked:
        return None
    if len(asked) != 1 or asked[0].lower() not in {"true", "false", "1", "0"}:
        raise InvalidArgument(f"invalid filter '{name}={','.join(asked)}'")
    return asked[0].lower() in {"true", "1"}
