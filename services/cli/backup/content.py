"""What a backup holds: its objects, decoded and checked against one another. Used before one is written, verified or restored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from services.kit.errors import FailedPrecondition
from services.kit.messages.backup import BackupItem
from services.kit.model.objects import Object, Service
from services.kit.state.tables import Table, decode_object, name_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A whole backup."""

    version: int
    cluster_id: str
    at: float
    parts: tuple[BackupItem, ...]
    objects: tuple[Object, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of objects by table, as ``{"service": 3}``."""
        return dict(Counter(each.table for part in self.parts for each in part.objects))

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all objects."""
        return frozenset(thing.id for thing in self.objects)


def content_of(parts: Sequence[BackupItem]) -> Content:
    """Return what the parts hold together; raises FailedPrecondition when they are no whole or do not fit together."""
    first = parts[0]
    stored = tuple(each for part in parts for each in part.objects)
    if len(stored) != first.total or any(part.version != first.version for part in parts):
        raise FailedPrecondition(f"the backup has {len(stored)} of {first.total} objects, or of several versions")
    try:
        objects = tuple(decode_object(Table(each.table), each.object) for each in stored)
    except (ValueError, msgspec.MsgspecError) as error:
        raise FailedPrecondition(f"the backup holds something that is no object of a swarm: {error}") from None
    content = Content(
        version=first.version, cluster_id=first.cluster_id, at=first.at, parts=tuple(parts), objects=objects
    )
    lost = sorted(_lost_references(content))
    if lost:
        raise FailedPrecondition(f"the backup lacks what its services refer to: {', '.join(lost[:5])}")
    return content


def _lost_references(content: Content) -> Iterator[str]:
    for thing in content.objects:
        if not isinstance(thing, Service):
            continue
        container = thing.spec.task.container
        wanted = (
            *((each.secret_id, f"secret {each.secret_name}") for each in container.secrets),
            *((each.config_id, f"config {each.config_name}") for each in container.configs),
            *((each.target, f"network {each.target}") for each in thing.spec.task.networks),
        )
        for object_id, said in wanted:
            if object_id and object_id not in content.ids:
                yield f"{said} of service {name_of(thing)}"
