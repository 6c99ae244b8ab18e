"""Generic resources on their way to a task: the variables and devices that it is handed, and who still has what. Used by the tasks and the drivers.

The scheduler deals a named resource to one task at a time; a task that shall stop gives it back only with its end. ``holder`` keeps
the next one waiting until then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from services.kit.errors import InvalidArgument, Problem
from services.kit.model.ids import TaskId
from services.kit.model.specs import GenericResource

PREFIXES = ("SWARMBUS_RESOURCE_", "DOCKER_RESOURCE_")
"""Ours, and the one that SwarmKit's users look for."""

DeviceMap = Mapping[tuple[str, str], tuple[str, ...]]
"""Devices by kind and name of a resource; the empty name is for every task that was dealt any of the kind."""


def resource_environment(dealt: Iterable[GenericResource]) -> dict[str, str]:
    """Return a variable per kind and prefix: the names with commas between them, or the number."""
    variables: dict[str, str] = {}
    for resource in dealt:
        kind = re.sub("[^A-Za-z0-9]", "_", resource.kind).upper()
        value = ",".join(resource.names) or str(resource.count)
        for prefix in PREFIXES:
            variables[f"{prefix}{kind}"] = value
    return variables


def parse_devices(entries: Iterable[str]) -> DeviceMap:
    """Read ``KIND/name=DEVICE`` and ``KIND=DEVICE``; raises InvalidArgument with every mistake."""
    devices: dict[tuple[str, str], tuple[str, ...]] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        resource, _, device = (part.strip() for part in entry.partition("="))
        kind, _, name = resource.partition("/")
        if not kind or not device:
            reason = "is not KIND/name=DEVICE or KIND=DEVICE"
            problems.append(Problem(path=f"resource_devices.{index}", reason=reason, value=entry))
        devices[kind, name] = (*devices.get((kind, name), ()), device)
    if problems:
        raise InvalidArgument.of(tuple(problems))
    return devices


def dealt_devices(dealt: Iterable[GenericResource], devices: DeviceMap) -> tuple[str, ...]:
    """Return the devices that go with what a task was dealt, each once."""
    found: list[str] = []
    for resource in dealt:
        for name in ("", *resource.names):
            found += devices.get((resource.kind, name), ())
    return tuple(dict.fromkeys(found))


def holder(
    dealt: Iterable[GenericResource], others: Iterable[tuple[TaskId, tuple[GenericResource, ...]]]
) -> tuple[str, TaskId] | None:
    """Return a named resource that one of the others still has, with who has it; None when all are free."""
    wanted = {(resource.kind, name) for resource in dealt for name in resource.names}
    if not wanted:
        return None
    for task_id, held in sorted(others):
        for resource in held:
            for name in resource.names:
                if (resource.kind, name) in wanted:
                    return f"{resource.kind} {name}", task_id
    return None
