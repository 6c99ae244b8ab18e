"""What the flags ``--network`` do to a spec. Used by service_swarm.py."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from services.cli.reading import Reading
from services.client import text
from services.kit.model.ids import NetworkId
from services.kit.model.network_rules import ENGINES_OWN
from services.kit.model.specs import NetworkAttachmentConfig, TaskSpec


def with_networks(
    reading: Reading, task: TaskSpec, flags: argparse.Namespace, ids: Mapping[str, str]
) -> tuple[NetworkAttachmentConfig, ...]:
    """Return a task's networks with what the flags add and without what they take away; ``ids`` are by name."""
    kept = {each.target: each for each in task.networks}
    for name in flags.network_rm:
        kept.pop(NetworkId(_id_of(name, ids)), None)
    for name, attachment in reading.all(_attachment, flags.network_add, "--network"):
        if name in ENGINES_OWN:
            hint = f"write --driver-opt network={name}"
            reading.refuse("--network", "is the engine's own, not the swarm's", name, hint)
        elif _id_of(name, ids) not in ids.values():
            reading.refuse("--network", "there is no network of this name", name, "see `swarmctl network ls`")
        else:
            target = NetworkId(_id_of(name, ids))
            kept[target] = NetworkAttachmentConfig(
                target=target, aliases=attachment.aliases, driver_options=attachment.driver_options
            )
    return tuple(kept.values())


def _id_of(name: str, ids: Mapping[str, str]) -> str:
    return ids.get(name, name)


def _attachment(value: str, path: str) -> tuple[str, NetworkAttachmentConfig]:
    """Read ``NAME`` or ``name=NAME,alias=OTHER,driver-opt=KEY=VALUE``."""
    if "=" not in value:
        return value, NetworkAttachmentConfig(target=NetworkId(value))
    name, aliases, options = "", [], {}
    for part in value.split(","):
        key, given = text.pair(part, path)
        match key:
            case "name":
                name = given
            case "alias":
                aliases.append(given)
            case "driver-opt":
                option, setting = text.pair(given, path)
                options[option] = setting
            case _:
                text.refuse(path, f"has no field {key!r}", value, "name, alias and driver-opt are known")
    if not name:
        text.refuse(path, "names no network", value, "write it like name=NAME,alias=OTHER")
    return name, NetworkAttachmentConfig(target=NetworkId(name), aliases=tuple(aliases), driver_options=options)
