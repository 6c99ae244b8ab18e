"""Several files, and services that extend others, made into one: the merge rules of the Compose format, on YAML nodes.

Mappings are merged key by key, lists are joined (mounts and ports by what they are for, commands replaced), texts are replaced. Under
the tag ``!reset`` a key goes, under ``!override`` it is replaced. Nodes keep their marks, so that a complaint names the file and line a
value came from. Called by file.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from services.cli.stack.places import Place, load
from services.kit.errors import InvalidArgument

REPLACED = frozenset({"command", "entrypoint", "test"})
KEYED = frozenset({"environment", "labels", "sysctls", "extra_hosts", "driver_opts", "options"})
"""Mappings that may be written as lists of ``key=value``."""
RESET, OVERRIDE = "!reset", "!override"
_MAP, _NULL = "tag:yaml.org,2002:map", "tag:yaml.org,2002:null"

Read = Callable[[Path], str]
"""Returns a file's text; raises OSError."""


def merged(base: yaml.Node, over: yaml.Node, key: str = "") -> yaml.Node:
    """Return what ``over`` makes of ``base``."""
    if over.tag == OVERRIDE:
        return over
    if key in KEYED:
        base, over = _keyed(base), _keyed(over)
    if key == "depends_on":
        base, over = _conditions(base), _conditions(over)
    if isinstance(base, yaml.MappingNode) and isinstance(over, yaml.MappingNode):
        return _mapping(base, over)
    if isinstance(base, yaml.SequenceNode) and isinstance(over, yaml.SequenceNode) and key not in REPLACED:
        return _joined(base, over, key)
    return over


def _mapping(base: yaml.MappingNode, over: yaml.MappingNode) -> yaml.MappingNode:
    pairs = {str(key.value): (key, value) for key, value in base.value}
    for key, value in over.value:
        name = str(key.value)
        if value.tag == RESET:
            pairs.pop(name, None)
        else:
            pairs[name] = (key, merged(pairs[name][1], value, name) if name in pairs else value)
    return yaml.MappingNode(over.tag, list(pairs.values()), over.start_mark, over.end_mark)


def _joined(base: yaml.SequenceNode, over: yaml.SequenceNode, key: str) -> yaml.SequenceNode:
    named = {"volumes": _mount_target, "ports": _port_key}.get(key, _text)
    items = {named(item) or str(index): item for index, item in enumerate([*base.value, *over.value])}
    return yaml.SequenceNode(over.tag, list(items.values()), over.start_mark, over.end_mark)


def _text(item: yaml.Node) -> str:
    return str(item.value) if isinstance(item, yaml.ScalarNode) else ""


def _field(item: yaml.Node, name: str) -> str:
    if not isinstance(item, yaml.MappingNode):
        return ""
    return next((str(value.value) for key, value in item.value if key.value == name), "")


def _mount_target(item: yaml.Node) -> str:
    text = _text(item)
    parts = text.split(":")
    return _field(item, "target") or (parts[1] if len(parts) > 1 else text)


def _port_key(item: yaml.Node) -> str:
    text = _text(item)
    if text:
        numbers, _, protocol = text.partition("/")
        published, _, target = numbers.rpartition(":")
        return f"{published}:{target}/{protocol or 'tcp'}"
    return f"{_field(item, 'published')}:{_field(item, 'target')}/{_field(item, 'protocol') or 'tcp'}"


def _keyed(node: yaml.Node) -> yaml.Node:
    """Return ``- key=value`` lines as a mapping; anything else as it is."""
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return node
    pairs = []
    for item in node.value:
        name, equals, text = str(item.value).partition("=")
        marks = (item.start_mark, item.end_mark)
        tag = "tag:yaml.org,2002:str" if equals else _NULL
        pairs.append((yaml.ScalarNode(item.tag, name, *marks), yaml.ScalarNode(tag, text, *marks)))
    return yaml.MappingNode(_MAP, pairs, node.start_mark, node.end_mark)


def _conditions(node: yaml.Node) -> yaml.Node:
    """Return a list of services as a mapping to nothing in particular."""
    if not isinstance(node, yaml.SequenceNode):
        return node
    pairs = [
        (item, yaml.MappingNode(_MAP, [], item.start_mark, item.end_mark))
        for item in node.value
        if isinstance(item, yaml.ScalarNode)
    ]
    return yaml.MappingNode(_MAP, pairs, node.start_mark, node.end_mark)


# -- extends


class Extensions:
    """Carries out ``extends``: a service on top of another one, of the same file or of another."""

    def __init__(self, top: Place, read: Read) -> None:
        self._top = top
        self._read = read

    def extended(self, name: str, service: Place, seen: tuple[str, ...] = ()) -> Place:
        """Return a service with what it extends underneath; mistakes are noted."""
        wish = service.fields().get("extends") if service.is_mapping else None
        if wish is None:
            return service
        me = f"{service.node.start_mark.name}: {name}"
        if me in seen:
            wish.refuse("goes round in a circle", " → ".join((*seen, me)))
            return _without_extends(service)
        found = self._base(wish)
        if found is None:
            return _without_extends(service)
        base_name, base = found
        base = self.extended(base_name, base, (*seen, me))
        over = _without_extends(service)
        return Place(stack=service.stack, node=merged(base.node, over.node), path=service.path)

    def _base(self, wish: Place) -> tuple[str, Place] | None:
        fields = wish.fields(("service", "file")) if wish.is_mapping else {"service": wish}
        if "service" not in fields:
            wish.refuse("does not say which service", hint="add service: NAME")
            return None
        name = fields["service"].text()
        top = self._file(fields["file"]) if "file" in fields else self._of_same_file(wish)
        if top is None:
            return None
        services = top.fields().get("services")
        base = None if services is None else services.fields().get(name)
        if base is None:
            fields["service"].refuse("there is no such service to extend", name)
            return None
        return name, base

    def _of_same_file(self, wish: Place) -> Place | None:
        """Return the file that the wish stands in: the merged ones count as one."""
        name = wish.node.start_mark.name
        return self._top if name in self._names() else self._loaded(wish, Path(name))

    def _names(self) -> set[str]:
        return {self._top.node.start_mark.name, *(value.start_mark.name for _, value in _pairs(self._top.node))}

    def _file(self, place: Place) -> Place | None:
        return self._loaded(place, place.folder / place.text())

    def _loaded(self, place: Place, path: Path) -> Place | None:
        try:
            node = load(self._read(path), str(path))
        except OSError as error:
            place.refuse(f"cannot be read: {error.strerror}", path)
            return None
        except InvalidArgument as error:
            place.stack.reading.problems += error.problems
            return None
        return Place(stack=place.stack, node=node, path="")


def _pairs(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _without_extends(place: Place) -> Place:
    kept = [(key, value) for key, value in _pairs(place.node) if key.value != "extends"]
    node = yaml.MappingNode(place.node.tag, kept, place.node.start_mark, place.node.end_mark)
    return Place(stack=place.stack, node=node, path=place.path)
