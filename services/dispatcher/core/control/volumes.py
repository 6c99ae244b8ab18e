"""Cluster volumes as users ask for them: create, change, remove. The driver's work follows from what is stored (core/loops/volumes.py)."""

from __future__ import annotations

import msgspec

from services.dispatcher.core.control.answers import Answer, out_of_sequence
from services.dispatcher.core.control.payloads import id_for_payload
from services.dispatcher.core.control.refs import find_named
from services.kit.errors import FailedPrecondition, InvalidArgument, Problem
from services.kit.messages.control import Filters
from services.kit.model.ids import VolumeId
from services.kit.model.objects import Volume
from services.kit.model.validate_volumes import volume_problems
from services.kit.model.volumes import VolumeSpec
from services.kit.state.transaction import create, remove, update
from services.kit.state.view import View

_replace = msgspec.structs.replace


def find_volume(view: View, ref: str) -> Volume:
    """Return what is meant by id, by name or prefix of an id; raises NotFound and FailedPrecondition (ambiguous)."""
    named = next((v for v in view.volumes.values() if v.spec.annotations.name.lower() == ref.lower()), None)
    return find_named("volume", view.volumes, named, ref, lambda volume: volume.spec.annotations.name)


def list_volumes(view: View, filters: Filters) -> tuple[Volume, ...]:
    """Return volumes by name."""
    found = [volume for volume in view.volumes.values() if _is_asked(volume, filters)]
    return tuple(sorted(found, key=lambda volume: volume.spec.annotations.name))


def create_volume(view: View, spec: VolumeSpec, request_id: str, fresh_id: str) -> Answer:
    """Return the write that makes a volume; none when this very request has made it already."""
    problems = [*volume_problems(spec)]
    problems += [
        Problem(path=f"secrets[{index}]", reason="there is no such secret", value=secret.secret_id)
        for index, secret in enumerate(spec.secrets)
        if secret.secret_id not in view.secrets
    ]
    if problems:
        raise InvalidArgument.of(tuple(problems))
    volume_id = VolumeId(id_for_payload("volume", request_id) if request_id else fresh_id)
    known = view.volumes.get(volume_id)
    if known is not None and request_id:
        return Answer(thing=known)
    volume = Volume(id=volume_id, spec=spec)
    return Answer(ops=(create(volume),), thing=volume)


def update_volume(view: View, volume_id: VolumeId, version: int, spec: VolumeSpec) -> Answer:
    """Return the write that changes labels and availability; anything else that differs is refused."""
    volume = find_volume(view, volume_id)
    if version != volume.meta.version:
        raise out_of_sequence("volume", volume.meta.version, version)
    annotations = _replace(volume.spec.annotations, labels=spec.annotations.labels)
    fresh = _replace(volume.spec, annotations=annotations, availability=spec.availability)
    if fresh != spec:
        hint = "only labels and availability change"
        raise InvalidArgument.of((Problem(path="spec", reason="changes what cannot change", hint=hint),))
    changed = _replace(volume, spec=fresh)
    return Answer(ops=(update(changed),), thing=changed)


def remove_volume(view: View, volume_id: VolumeId, *, force: bool) -> Answer:
    """Return the write that has a volume removed, or (forced) forgets it; refused while a task uses it."""
    volume = find_volume(view, volume_id)
    if force:
        return Answer(ops=(remove(volume),), thing=volume)
    users = sorted(
        task.id
        for task in view.tasks.values()
        if not task.status.state.terminal and any(use.volume_id == volume.id for use in task.volumes)
    )
    if users:
        raise FailedPrecondition(f"volume {volume.spec.annotations.name!r} is used by task {users[0]}")
    doomed = _replace(volume, pending_delete=True)
    return Answer(ops=(update(doomed),), thing=doomed)


def _is_asked(volume: Volume, filters: Filters) -> bool:
    name, labels = volume.spec.annotations.name, volume.spec.annotations.labels
    if filters.names or filters.name_prefixes or filters.id_prefixes:
        named = name in filters.names or any(name.startswith(prefix) for prefix in filters.name_prefixes)
        if not named and not any(volume.id.startswith(prefix) for prefix in filters.id_prefixes):
            return False
    return all(key in labels and (not value or labels[key] == value) for key, value in filters.labels.items())
