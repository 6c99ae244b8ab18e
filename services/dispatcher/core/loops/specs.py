"""Spec versions: deletes those that no task refers to any more. Keys are ids of spec versions.

A service's current version stays, used or not. What must stay true: the store refuses to delete a version that a task refers to, so a
mistake here costs a retry, never a task its template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.kit.model.ids import ServiceId, spec_version_id
from services.kit.model.objects import Service, SpecVersion, Task
from services.kit.state.state import Event
from services.kit.state.tables import Table


class SpecVersions:
    """Forgets templates that have served."""

    name = "specs"
    tables = frozenset({Table.TASK, Table.SERVICE})

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all versions."""
        ids = {service.id for service in view.services.values()} | {task.service_id for task in view.tasks.values()}
        return [(service, version) for service in sorted(ids) for version in view.specs_of(service)]

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """The version of a task that is gone, and all versions of a service that changed."""
        thing = event.object
        if isinstance(thing, Task):
            return () if event.new is not None else ((thing.service_id, thing.spec_version),)
        if isinstance(thing, Service) and event.old is not None:
            return [(thing.id, version) for version in view.specs_of(thing.id)]
        return ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Delete what is neither current nor referred to."""
        steps: list[Step] = []
        for key in keys:
            assert isinstance(key, tuple)
            service_id, version = ServiceId(key[0]), int(key[1])
            spec = view.spec(service_id, version)
            service = view.services.get(service_id)
            if spec is None or (service is not None and service.spec_version == version):
                continue
            if not _is_used(view, spec):
                assert spec.id == spec_version_id(service_id, version)
                steps.append(Step(key=key, removes=(spec,)))
        return Plan(steps=steps)


def _is_used(view: Picture, spec: SpecVersion) -> bool:
    return any(
        task.spec_version == spec.version for slot in view.slots_of(spec.service_id).values() for task in slot.values()
    )
