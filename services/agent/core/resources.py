"""Generic resources on their way to a task: the variables that name what it was dealt. Used by drivers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.kit.model.specs import GenericResource

PREFIXES = ("SWARMBUS_RESOURCE_", "DOCKER_RESOURCE_")
"""Ours, and the one that SwarmKit's users look for."""


def resource_environment(dealt: Iterable[GenericResource]) -> dict[str, str]:
    """Return a variable per kind and prefix: the names with commas between them, or the number."""
    variables: dict[str, str] = {}
    for resource in dealt:
        kind = re.sub("[^A-Za-z0-9]", "_", resource.kind).upper()
        value = ",".join(resource.names) or str(resource.count)
        for prefix in PREFIXES:
            variables[f"{prefix}{kind}"] = value
    return variables
