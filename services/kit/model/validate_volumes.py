"""What may be wrong with a cluster volume's spec."""

from __future__ import annotations

import re

from services.kit.errors import Problem
from services.kit.model.problems import Problems
from services.kit.model.volumes import AccessMode, CapacityRange, VolumeSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME_HINT = "letters, digits, _ . and -, at most 64 of them"


def volume_problems(spec: VolumeSpec) -> tuple[Problem, ...]:
    """Return every mistake in a volume's spec."""
    problems = Problems()
    _name(problems, "annotations.name", spec.annotations.name)
    if spec.driver.name:
        _name(problems, "driver.name", spec.driver.name)
    else:
        problems.add("driver.name", "is missing", "", "name a volume driver of the nodes")
    if spec.group:
        _name(problems, "group", spec.group)
    _access(problems, spec.access_mode)
    _capacity(problems, spec.capacity)
    keys = [secret.key for secret in spec.secrets]
    for index, key in enumerate(keys):
        if not key or keys.index(key) != index:
            problems.add(f"secrets[{index}].key", "is missing or used twice", key)
    return tuple(problems.found)


def _name(problems: Problems, path: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        problems.add(path, "is not a name", name, _NAME_HINT)


def _access(problems: Problems, mode: AccessMode) -> None:
    if mode.block and (mode.fs_type or mode.mount_flags):
        problems.add("access_mode", "a device has no file system", mode.fs_type)


def _capacity(problems: Problems, capacity: CapacityRange) -> None:
    problems.at_least("capacity.required_bytes", capacity.required_bytes, 0)
    problems.at_least("capacity.limit_bytes", capacity.limit_bytes, 0)
    if 0 < capacity.limit_bytes < capacity.required_bytes:
        problems.add("capacity.required_bytes", "is more than the limit", capacity.required_bytes)
