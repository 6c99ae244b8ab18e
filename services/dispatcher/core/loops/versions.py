"""Versions of secrets and configs: deletes superseded ones that nothing refers to any more. Keys are their ids.

A service's spec, its previous spec (it may go back to it) and every stored template count as references.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.kit.model.ids import ConfigId, SecretId
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import ContainerSpec
from services.kit.state.state import Event
from services.kit.state.tables import Table


class PayloadVersions:
    """Forgets data that has served."""

    name = "versions"
    tables = frozenset({Table.SERVICE, Table.SPEC, Table.SECRET, Table.CONFIG})

    def __init__(self) -> None:
        self._superseded: dict[str, None] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all superseded versions."""
        things: tuple[Secret | Config, ...] = (*view.secrets.values(), *view.configs.values())
        self._superseded = {thing.id: None for thing in things if thing.superseded_by is not None}
        return list(self._superseded)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A version that was superseded, and all of them when a service or template let something go."""
        thing = event.object
        if isinstance(thing, Secret | Config):
            if event.new is None or thing.superseded_by is None:
                self._superseded.pop(thing.id, None)
                return ()
            self._superseded[thing.id] = None
            return (thing.id,)
        return tuple(self._superseded) if event.old is not None else ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Delete what nothing refers to."""
        used = set(_used(view)) if keys else set()
        steps: list[Step] = []
        for key in keys:
            thing = view.secrets.get(SecretId(str(key))) or view.configs.get(ConfigId(str(key)))
            if thing is not None and thing.superseded_by is not None and thing.id not in used:
                steps.append(Step(key=key, removes=(thing,)))
        return Plan(steps=steps)


def _used(view: Picture) -> Iterator[str]:
    for service in view.services.values():
        yield from _references(service.spec.task.container)
        if service.previous_spec is not None:
            yield from _references(service.previous_spec.task.container)
    for service_id in {service.id for service in view.services.values()} | {t.service_id for t in view.tasks.values()}:
        for spec in view.specs_of(service_id).values():
            yield from _references(spec.task.container)


def _references(container: ContainerSpec) -> Iterator[str]:
    yield from (reference.secret_id for reference in container.secrets)
    yield from (reference.config_id for reference in container.configs)
    yield container.privileges.credential_spec_config
