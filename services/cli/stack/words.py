"""How single values are written in a stack file: texts, truth values, durations, commands, variables, labels."""

from __future__ import annotations

import shlex

from services.cli.stack.places import Place
from services.client import text


def text_of(place: Place | None) -> str:
    """Return a text, empty where there is none."""
    return "" if place is None else place.text()


def switch(value: str, path: str) -> bool:
    """Return a truth value."""
    if value.lower() not in {"true", "false", "yes", "no", "on", "off"}:
        text.refuse(path, "is neither true nor false", value)
    return value.lower() in {"true", "yes", "on"}


def seconds(place: Place | None, default_s: float) -> float:
    """Return a duration."""
    return default_s if place is None else place.parsed(text.duration_s, default_s)


def words(place: Place | None) -> tuple[str, ...]:
    """Return a command: a list as it is, a text split as a shell would."""
    if place is None or place.empty:
        return ()
    if place.is_list:
        return tuple(item.text() for item in place.items())
    try:
        return tuple(shlex.split(place.text()))
    except ValueError as error:
        place.refuse(f"cannot be split into words: {error}", place.text(), "write it as a list")
        return ()


def texts(place: Place | None) -> tuple[str, ...]:
    """Return a list of texts; a single one counts as a list."""
    if place is None or place.empty:
        return ()
    return tuple(item.text() for item in place.items()) if place.is_list else (place.text(),)


def read_labels(place: Place | None) -> dict[str, str]:
    """Return labels written as a mapping or as a list of ``key=value``."""
    if place is None:
        return {}
    if place.is_mapping:
        return {key: value.text() for key, value in place.fields().items()}
    return dict(item.parsed(text.pair, ("", "")) for item in place.items())


def read_environment(place: Place | None) -> dict[str, str]:
    """Return variables; one without a value is taken from the environment of this command, if it is there."""
    if place is None:
        return {}
    found: dict[str, str] = {}
    outside = place.stack.environment
    if place.is_mapping:
        for name, value in place.fields().items():
            if not value.empty:
                found[name] = value.text()
            elif name in outside:
                found[name] = outside[name]
        return found
    for item in place.items():
        name, equals, value_text = item.text().partition("=")
        if equals:
            found[name] = value_text
        elif name in outside:
            found[name] = outside[name]
    return found


def read_environment_files(place: Place | None) -> dict[str, str]:
    """Return the variables of ``env_file``: one path, or a list of paths or of ``{path, required, format}``."""
    if place is None:
        return {}
    found: dict[str, str] = {}
    for item in place.items() if place.is_list else [place]:
        found.update(_environment_file(item))
    return found


def _environment_file(place: Place) -> dict[str, str]:
    fields = place.fields(("path", "required", "format")) if place.is_mapping else {"path": place}
    if "path" not in fields:
        place.refuse("does not say which file", hint="add path: FILE")
        return {}
    raw = False
    if "format" in fields:
        raw = fields["format"].text() == "raw"
        if not raw:
            fields["format"].refuse("is not known", fields["format"].text(), "raw is; leave it out for the usual one")
    path = place.folder / fields["path"].text()
    required = fields["required"].parsed(switch, True) if "required" in fields else True
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        if required:
            fields["path"].refuse("there is no such file", path)
        return {}
    except (OSError, UnicodeDecodeError) as error:
        fields["path"].refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}", path)
        return {}
    return _variables(place, lines, raw=raw)


def _variables(place: Place, lines: list[str], *, raw: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.removeprefix("export ").partition("=")
        name = name.strip()
        if equals:
            found[name] = value if raw else _unquoted(value.strip())
        elif name in place.stack.environment:
            found[name] = place.stack.environment[name]
    return found


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value.partition(" #")[0].rstrip()
