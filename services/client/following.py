"""Following objects from the moment at which the stream is open; used by processes that keep a picture of the swarm."""

from __future__ import annotations

from collections.abc import Iterable

from services.client.client import Client
from services.client.feed import Follower
from services.kit.messages import control


def follow(client: Client, *, tables: Iterable[str] = ()) -> Follower:
    """Return a follower; its first item is OPENED, when nothing that happens from then on is missed."""
    return Follower(client._line, control.WatchObjects(tables=tuple(tables)))
