"""What a node is, as keys and values that the fleet can look up: labels, names, role, platform, and what it can run."""

from __future__ import annotations

from collections.abc import Iterator

from services.kit.model.constraints import ENGINE_LABELS, NODE_LABELS
from services.kit.model.objects import EngineDescription, Node
from services.kit.model.specs import Platform

PLATFORM = "platform"
ABLE = "able"
"""Prefix of the keys of what a node can run."""
_ALIASES = {"x86_64": "amd64", "aarch64": "arm64"}

Fact = tuple[str, str]


def facts_of(node: Node) -> Iterator[Fact]:
    """Yield each key and value that is known of a node; no key comes twice."""
    description = node.description
    yield "node.id", node.id
    yield "node.hostname", description.hostname
    yield "node.role", node.role.value
    yield "node.platform.os", description.platform.os
    yield "node.platform.arch", description.platform.architecture
    for name, value in node.spec.annotations.labels.items():
        yield NODE_LABELS + name, value
    for name, value in description.engine.labels.items():
        yield ENGINE_LABELS + name, value
    if description.platform != Platform():
        yield PLATFORM, platform_value(description.platform)
    for able in set(_abilities(node)):
        yield ABLE + able, ""


def _abilities(node: Node) -> Iterator[str]:
    """Yield what a node can run: drivers, and its engine's plugins. An engine that says nothing of a kind of plugins is not doubted."""
    for driver in node.description.drivers:
        yield driver_able(driver)
    engine = node.description.engine
    kinds = {plugin.partition("/")[0] for plugin in engine.plugins}
    if engine == EngineDescription():
        yield from (any_plugin(kind) for kind in ("Volume", "Network", "Log"))
    else:
        yield from (any_plugin(kind) for kind in ("Network", "Log") if kind not in kinds)
    for plugin in engine.plugins:
        yield plugin_able(*_parted(plugin))


def _parted(plugin: str) -> tuple[str, str]:
    kind, _, name = plugin.partition("/")
    return kind, name.removesuffix(":latest")


def driver_able(driver: str) -> str:
    """Return the word for being able to run tasks by this driver."""
    return f"/driver/{driver}"


def plugin_able(kind: str, name: str) -> str:
    """Return the word for having a plugin."""
    return f"/plugin/{kind}/{name.removesuffix(':latest')}"


def any_plugin(kind: str) -> str:
    """Return the word for not being asked for plugins of this kind."""
    return f"/any/{kind}"


def kind_of(able: str) -> str | None:
    """Return the kind of plugin that a word asks for, None when it is a driver's."""
    _, family, rest = able.split("/", 2)
    return rest.partition("/")[0] if family == "plugin" else None


def platform_value(platform: Platform) -> str:
    """Return a platform as one comparable text."""
    return f"{_arch(platform.architecture)}/{platform.os.lower()}"


def runs_on(wanted: Platform, have: str) -> bool:
    """Tell whether what is made for ``wanted`` runs on a platform given as text; an empty field of ``wanted`` matches anything."""
    arch, _, system = have.partition("/")
    same_arch = not wanted.architecture or _arch(wanted.architecture) == arch
    return same_arch and (not wanted.os or wanted.os.lower() == system)


def _arch(name: str) -> str:
    return _ALIASES.get(name.lower(), name.lower())
