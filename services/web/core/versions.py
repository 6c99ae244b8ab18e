"""Versions of Docker's API: which are spoken here, and what a path says about it."""

from __future__ import annotations

import re

from services.kit.errors import InvalidArgument

LEAST = (1, 41)
GREATEST = (1, 47)
_PREFIX = re.compile(r"/v(\d+)\.(\d+)(/.*)")


def written(version: tuple[int, int]) -> str:
    """Return a version as it is written."""
    return f"{version[0]}.{version[1]}"


def split_path(path: str) -> tuple[tuple[int, int], str]:
    """Return the version that a request speaks and the path behind it; raises InvalidArgument in Docker's words."""
    match = _PREFIX.fullmatch(path)
    if match is None:
        return GREATEST, path
    version = (int(match[1]), int(match[2]))
    if version > GREATEST:
        raise InvalidArgument(
            f"client version {written(version)} is too new. Maximum supported API version is {written(GREATEST)}"
        )
    if version < LEAST:
        raise InvalidArgument(
            f"client version {written(version)} is too old. Minimum supported API version is {written(LEAST)},"
            " please upgrade your client to a newer version"
        )
    return version, match[3]
