"""The swarm's own credentials for registries of images, as the session brought them; in memory only. Used by drivers that fetch images.

A service's own credentials (``container.registry_auth``) come first; these are for images whose service brings none.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.kit.messages.session import RegistryAuth

HUB = "docker.io"


def registry_of(image: str) -> str:
    """Return the registry that an image comes from: the first part of its name, if that looks like a host."""
    first, slash, _ = image.partition("/")
    return first if slash and (first == "localhost" or "." in first or ":" in first) else HUB


class Credentials:
    """What this node may fetch images with."""

    def __init__(self) -> None:
        self._auths: dict[str, str] = {}

    def replace(self, auths: Iterable[RegistryAuth]) -> None:
        """Know these and no others."""
        self._auths = {auth.registry: auth.auth for auth in auths}

    def find(self, image: str) -> str:
        """Return the credentials for an image in the form of ``container.registry_auth``; empty when there are none."""
        return self._auths.get(registry_of(image), "")
