"""What a volume's driver has to do next, one step at a time, and what the volume is after each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from services.kit.model.ids import NodeId
from services.kit.model.objects import Volume
from services.kit.model.volumes import Publication, PublicationState, VolumeInfo

_replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class Create:
    """Make it."""


@dataclass(frozen=True, slots=True)
class Attach:
    """Let a node use it."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Detach:
    """Take it away from a node that has taken it down."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Delete:
    """Destroy it, then forget it."""


VolumeStep = Create | Attach | Detach | Delete


def next_step(volume: Volume) -> VolumeStep | None:
    """Return what to do next; what can go back goes first, so that a volume for one node at a time can move on."""
    for publication in volume.publications:
        if publication.state is PublicationState.PENDING_UNPUBLISH:
            return Detach(publication.node_id)
    if volume.pending_delete:
        return None if volume.publications else Delete()
    if volume.info is None:
        return Create()
    for publication in volume.publications:
        if publication.state is PublicationState.PENDING_PUBLISH:
            return Attach(publication.node_id)
    return None


def made(volume: Volume, info: VolumeInfo) -> Volume:
    """Return the volume once its driver has made it."""
    return _replace(volume, info=info, message="")


def attached(volume: Volume, node: NodeId, context: dict[str, str]) -> Volume:
    """Return the volume once a node may use it."""
    return _with(volume, node, lambda p: _replace(p, state=PublicationState.PUBLISHED, context=context, message=""))


def detached(volume: Volume, node: NodeId) -> Volume:
    """Return the volume once a node has it no more."""
    kept = tuple(publication for publication in volume.publications if publication.node_id != node)
    return _replace(volume, publications=kept, message="")


def failed(volume: Volume, step: VolumeStep, reason: str) -> Volume:
    """Return the volume with what went wrong."""
    match step:
        case Attach(node) | Detach(node):
            return _with(volume, node, lambda publication: _replace(publication, message=reason))
        case Create() | Delete():
            return _replace(volume, message=reason)


def _with(volume: Volume, node: NodeId, change: Callable[[Publication], Publication]) -> Volume:
    fresh = tuple(change(p) if p.node_id == node else p for p in volume.publications)
    return _replace(volume, publications=fresh)
