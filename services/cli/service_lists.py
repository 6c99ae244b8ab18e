"""What the flags with many values do to a spec: add, replace by key, take away. Used by service_spec.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from services.cli.reading import Reading
from services.client import text
from services.kit.model.specs import (
    ContainerSpec,
    GenericResource,
    ServiceSpec,
    SpreadPreference,
    TaskSpec,
)

ThingT = TypeVar("ThingT")
PLAIN = (
    ("group", "groups"),
    ("host", "hosts"),
    ("dns", "nameservers"),
    ("dns_search", "dns_search"),
    ("dns_option", "dns_options"),
)
"""Flags whose values are kept as they are, and the fields of the container that hold them."""


def with_lists(reading: Reading, spec: ServiceSpec, flags: argparse.Namespace) -> ServiceSpec:
    """Return the spec with what the flags add and without what they take away."""
    ports = reading.all(text.port, flags.publish_add, "--publish")
    gone = reading.all(text.port, flags.publish_rm, "--publish-rm")
    by_target = {(port.target_port, port.protocol): port for port in spec.endpoint.ports}
    for port in gone:
        by_target.pop((port.target_port, port.protocol), None)
    by_target.update({(port.target_port, port.protocol): port for port in ports})
    return replace(
        spec,
        annotations=replace(spec.annotations, labels=_mapping(reading, spec.annotations.labels, flags, "label")),
        endpoint=replace(spec.endpoint, ports=tuple(by_target.values())),
        task=_task(reading, spec.task, flags),
    )


def _task(reading: Reading, task: TaskSpec, flags: argparse.Namespace) -> TaskSpec:
    placement = task.placement
    reserved = task.resources.reservations
    log = task.log_driver
    return replace(
        task,
        container=_container(reading, task.container, flags),
        placement=replace(
            placement,
            constraints=_set(placement.constraints, flags.constraint_add, flags.constraint_rm),
            preferences=_set(
                placement.preferences,
                reading.all(_preference, flags.placement_pref_add, "--placement-pref"),
                reading.all(_preference, flags.placement_pref_rm, "--placement-pref-rm"),
            ),
        ),
        resources=replace(
            task.resources,
            reservations=replace(
                reserved,
                generic=_by_key(
                    reserved.generic,
                    reading.all(_generic, flags.generic_resource_add, "--generic-resource"),
                    flags.generic_resource_rm,
                    lambda resource: resource.kind,
                ),
            ),
        ),
        driver_options=_mapping(reading, task.driver_options, flags, "driver_opt"),
        log_driver=replace(log, options={**log.options, **dict(reading.all(text.pair, flags.log_opt, "--log-opt"))}),
    )


def _container(reading: Reading, container: ContainerSpec, flags: argparse.Namespace) -> ContainerSpec:
    plain = {
        field: _set(getattr(container, field), getattr(flags, f"{flag}_add"), getattr(flags, f"{flag}_rm"))
        for flag, field in PLAIN
    }
    added, dropped = _capabilities(container, flags)
    return replace(
        container,
        env=_environment(reading, container.env, flags),
        labels=_mapping(reading, container.labels, flags, "container_label"),
        mounts=_by_key(
            container.mounts,
            reading.all(text.mount, flags.mount_add, "--mount"),
            flags.mount_rm,
            lambda mount: mount.target,
        ),
        sysctls=_mapping(reading, container.sysctls, flags, "sysctl"),
        ulimits=_by_key(
            container.ulimits,
            reading.all(text.ulimit, flags.ulimit_add, "--ulimit"),
            flags.ulimit_rm,
            lambda ulimit: ulimit.name,
        ),
        capability_add=added,
        capability_drop=dropped,
        **plain,
    )


# -- adding and taking away


def _set(old: tuple[ThingT, ...], added: Iterable[ThingT], removed: Iterable[ThingT]) -> tuple[ThingT, ...]:
    gone = list(removed)
    kept = [thing for thing in old if thing not in gone]
    return (*kept, *(thing for thing in dict.fromkeys(added) if thing not in kept))


def _by_key(
    old: tuple[ThingT, ...], added: Iterable[ThingT], removed: Iterable[str], key: Callable[[ThingT], str]
) -> tuple[ThingT, ...]:
    kept = {key(thing): thing for thing in old}
    for name in removed:
        kept.pop(name, None)
    kept.update({key(thing): thing for thing in added})
    return tuple(kept.values())


def _mapping(reading: Reading, old: Mapping[str, str], flags: argparse.Namespace, name: str) -> dict[str, str]:
    added = reading.all(text.pair, getattr(flags, f"{name}_add"), f"--{name.replace('_', '-')}")
    gone = set(getattr(flags, f"{name}_rm"))
    return {key: value for key, value in {**old, **dict(added)}.items() if key not in gone}


def _capabilities(container: ContainerSpec, flags: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is added is no longer dropped and the other way round; the last word counts."""
    add, drop = list(map(_capability, flags.cap_add)), list(map(_capability, flags.cap_drop))
    return (
        _set(container.capability_add, add, drop),
        _set(container.capability_drop, drop, [name for name in add if name not in drop]),
    )


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


# -- the environment


def _environment(reading: Reading, env: Iterable[str], flags: argparse.Namespace) -> tuple[str, ...]:
    """Replace variables by name, keeping their order; one without a value is taken from this command's environment, if it is there."""
    by_name = {line.partition("=")[0]: line for line in env}
    lines = [line for name in flags.env_file for line in environment_file(reading, name, "--env-file")]
    for line in (*lines, *flags.env_add):
        name, equals, _ = line.partition("=")
        if equals or not name:
            by_name[name] = line
        elif name in os.environ:
            by_name[name] = f"{name}={os.environ[name]}"
    for name in flags.env_rm:
        by_name.pop(name, None)
    return tuple(by_name.values())


def environment_file(reading: Reading, name: str, path: str) -> list[str]:
    """Return the lines of a file of environment variables, without comments."""
    try:
        content = Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reading.refuse(path, f"cannot be read: {getattr(error, 'strerror', None) or error}", name)
        return []
    stripped = (line.strip() for line in content.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


# -- how values are written


def _preference(value: str, path: str) -> SpreadPreference:
    kind, descriptor = text.pair(value, path)
    if kind != "spread" or not descriptor:
        text.refuse(path, "is not a preference", value, "write it like spread=node.labels.zone")
    return SpreadPreference(descriptor=descriptor)


def _generic(value: str, path: str) -> GenericResource:
    kind, number = text.pair(value, path)
    return GenericResource(kind=kind, count=text.whole(number, path, least=1))
