"""What Docker's API has and swarmbus has not, each with its reason: answered with 501."""

from __future__ import annotations

from collections.abc import Mapping

_ENGINE = "it is the business of a node's container engine: ask its own socket"
_REASONS: Mapping[str, str] = {
    "auth": "swarmbus keeps no registry logins: credentials come with each request",
    "build": "swarmbus builds no images",
    "commit": "swarmbus builds no images",
    "containers": _ENGINE,
    "distribution": "swarmbus asks no registry: each node pulls the image that the service names",
    "exec": _ENGINE,
    "grpc": "swarmbus builds no images",
    "images": _ENGINE,
    "networks": "containers that are no tasks are put on networks by the node's engine",
    "plugins": _ENGINE,
    "session": "swarmbus builds no images",
    "system": _ENGINE,
    "volumes": "volumes are made by a node's engine when a task mounts them",
}


def reason(path: str) -> str:
    """Return why there is nothing under a path; empty for one that Docker does not have either."""
    return _REASONS.get(path.strip("/").partition("/")[0], "")
