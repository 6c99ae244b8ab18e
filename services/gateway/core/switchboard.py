"""Which of the services that share a port is meant, by the name and the path that a client asks for.

Used by the data plane, so it imports nothing but the standard library. What must stay true: the most special name wins (the whole name, then
``*.`` and the rest, then any), and within it the longest path; the order in which services were added decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

ANY = "*"
OwnerT = TypeVar("OwnerT")


class Switchboard(Generic[OwnerT]):
    """Names, paths and whom they belong to."""

    def __init__(self) -> None:
        self._names: dict[str, list[tuple[str, OwnerT]]] = {}

    def add(self, names: Sequence[str], paths: Sequence[str], owner: OwnerT) -> None:
        """Give these paths of these names to an owner; no names are any name, no paths are all."""
        for name in names or (ANY,):
            places = self._names.setdefault(name.lower(), [])
            places.extend((path.rstrip("/"), owner) for path in paths or ("",))
            places.sort(key=lambda place: -len(place[0]))

    def owner(self, name: str, path: str = "/") -> OwnerT | None:
        """Return whose this name and path are."""
        name = name.lower().rstrip(".")
        for asked in (name, ANY + "." + name.partition(".")[2], ANY):
            for beginning, owner in self._names.get(asked, ()):
                if path.startswith(beginning) and path[len(beginning) : len(beginning) + 1] in {"", "/"}:
                    return owner
        return None

    def owner_of_name(self, name: str) -> OwnerT | None:
        """Return one of those who have any path of a name, while it is the only thing that is known."""
        name = name.lower().rstrip(".")
        for asked in (name, ANY + "." + name.partition(".")[2], ANY):
            for _, owner in self._names.get(asked, ()):
                return owner
        return None


def host_and_path(host: bytes, target: bytes) -> tuple[str, str]:
    """Return the name and the path of an HTTP request; what names the host in its target counts more than the header (RFC 9112, 3.2.2)."""
    text = target.decode("latin-1")
    authority = host.decode("latin-1")
    if not text.startswith("/"):
        _, _, rest = text.partition("://")
        authority, slash, behind = rest.partition("/")
        text = slash + behind or "/"
        if target == b"*":
            authority, text = host.decode("latin-1"), "/"
    path = text.partition("?")[0].partition("#")[0]
    return _without_port(authority.rpartition("@")[2]), path or "/"


def _without_port(authority: str) -> str:
    if authority.startswith("["):
        return authority.partition("]")[0].lstrip("[")
    return authority.partition(":")[0]
