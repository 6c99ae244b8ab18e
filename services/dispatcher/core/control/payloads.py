"""Secrets and configs: create, change labels, rotate, remove. Both are versions of data under a name; only secrets hide it.

Rotating makes a new version in one transaction with the services that use it: they roll over under their own update policy, and each
that fails goes back to its previous spec, which still refers to the version before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import msgspec

from services.dispatcher.core.control.answers import Answer, out_of_sequence
from services.dispatcher.core.control.refs import find_named
from services.dispatcher.core.specs import next_version, stored_spec
from services.dispatcher.core.tasks import is_job
from services.kit.errors import FailedPrecondition, InvalidArgument, Problem
from services.kit.messages.control import Filters
from services.kit.model.ids import ENTROPY_BYTES, ConfigId, SecretId, form_id
from services.kit.model.ingress import wanted
from services.kit.model.objects import Config, Secret, Service, UpdateStatus
from services.kit.model.specs import Annotations, ConfigSpec, SecretSpec, ServiceSpec
from services.kit.model.states import FailureAction, UpdateState
from services.kit.model.validate import config_problems, secret_problems
from services.kit.state.transaction import OPS_MAX, Op, create, remove, update
from services.kit.state.view import View

_replace = msgspec.structs.replace

ThingT = TypeVar("ThingT", Secret, Config)


@dataclass(frozen=True, slots=True)
class Kind(Generic[ThingT]):
    """What differs between secrets and configs."""

    noun: str
    thing: type[ThingT]

    def all(self, view: View) -> Mapping[str, ThingT]:
        """Return all objects of this kind."""
        return cast("Mapping[str, ThingT]", view.secrets if self.noun == "secret" else view.configs)

    def problems(self, spec: SecretSpec | ConfigSpec) -> tuple[Problem, ...]:
        """Return every mistake in a spec."""
        return secret_problems(spec) if isinstance(spec, SecretSpec) else config_problems(spec)

    def used_by(self, spec: ServiceSpec) -> set[str]:
        """Return the ids of this kind that a service's tasks use."""
        container = spec.task.container
        if self.noun == "secret":
            return {reference.secret_id for reference in container.secrets}
        runtime = {container.privileges.credential_spec_config} - {""}
        return {reference.config_id for reference in container.configs} | runtime

    def moved(self, spec: ServiceSpec, old: set[str], new: str) -> ServiceSpec:
        """Return a service's spec with its use of old versions turned into one of the new version."""
        container = spec.task.container
        if self.noun == "secret":
            secrets = tuple(
                _replace(r, secret_id=SecretId(new)) if r.secret_id in old else r for r in container.secrets
            )
            container = _replace(container, secrets=secrets)
        else:
            configs = tuple(
                _replace(r, config_id=ConfigId(new)) if r.config_id in old else r for r in container.configs
            )
            container = _replace(container, configs=configs)
        return _replace(spec, task=_replace(spec.task, container=container))


SECRETS = Kind("secret", Secret)
CONFIGS = Kind("config", Config)


def shown_secret(secret: Secret) -> Secret:
    """Return a secret without its data."""
    return _replace(secret, spec=_replace(secret.spec, data=b""))


def id_for_payload(noun: str, request_id: str) -> str:
    """Return the id of what a request with this id makes, so that asking twice makes one, whoever leads."""
    return form_id(hashlib.sha256(f"{noun}/{request_id}".encode()).digest()[:ENTROPY_BYTES])


def list_payloads(view: View, kind: Kind[ThingT], filters: Filters) -> tuple[ThingT, ...]:
    """Return objects by name, the current version first. Names and prefixes are OR-ed, as SwarmKit does for these."""
    found = [thing for thing in kind.all(view).values() if _is_asked(thing, filters)]
    return tuple(sorted(found, key=lambda thing: (thing.spec.annotations.name, -thing.number)))


def create_payload(
    view: View, kind: Kind[ThingT], spec: SecretSpec | ConfigSpec, request_id: str, fresh_id: str
) -> Answer:
    """Return the write that makes a secret or config; none when this very request has made it already."""
    _check(kind, spec)
    thing_id = id_for_payload(kind.noun, request_id) if request_id else fresh_id
    known = kind.all(view).get(thing_id)
    if known is not None and request_id:
        return Answer(thing=known)
    thing = kind.thing(id=thing_id, spec=spec)  # type: ignore[arg-type]
    return Answer(ops=(create(thing),), thing=thing)


def update_payload(
    view: View, kind: Kind[ThingT], thing_id: str, version: int, spec: SecretSpec | ConfigSpec
) -> Answer:
    """Return the write that changes labels; anything else that differs is refused. Data may be left out."""
    thing = find_payload(view, kind, thing_id)
    if version != thing.meta.version:
        raise out_of_sequence(kind.noun, thing.meta.version, version)
    labels = spec.annotations.labels
    kept = _replace(spec, annotations=_replace(spec.annotations, labels=thing.spec.annotations.labels))
    if not kept.data:
        kept = _replace(kept, data=thing.spec.data)
    if kept != thing.spec:
        hint = f"only labels can change; `rotate` makes a new version of a {kind.noun}"
        raise InvalidArgument.of((Problem(path="spec", reason="changes more than labels", hint=hint),))
    annotations = Annotations(name=thing.spec.annotations.name, labels=labels)
    fresh = _replace(thing, spec=_replace(thing.spec, annotations=annotations))
    return Answer(ops=(update(fresh),), thing=fresh)


def remove_payload(view: View, kind: Kind[ThingT], thing_id: str) -> Answer:
    """Return the writes that remove a secret or config with all of its versions; refused while a service uses one."""
    thing = find_payload(view, kind, thing_id)
    versions = versions_of(view, kind, thing)
    ids = {each.id for each in versions}
    name = thing.spec.annotations.name.lower()
    users = [
        s.spec.annotations.name
        for s in view.services.values()
        if kind.used_by(s.spec) & ids or (kind is SECRETS and name in _certificates_of(s.spec))
    ]
    if users:
        reason = f"is used by {_counted(users)}"
        hint = "remove it from them first"
        raise InvalidArgument.of(
            (Problem(path=kind.noun, reason=reason, value=thing.spec.annotations.name, hint=hint),)
        )
    return Answer(ops=tuple(remove(each) for each in versions), thing=thing)


def rotate_payload(
    view: View, kind: Kind[ThingT], thing_id: str, data: bytes, request_id: str, fresh_id: str, now: float
) -> tuple[Answer, tuple[str, ...]]:
    """Return the writes that make a new version and roll its users over, and the names of these."""
    made_id = id_for_payload(f"{kind.noun}/rotate", request_id) if request_id else fresh_id
    known = kind.all(view).get(made_id)
    if known is not None and request_id:
        return Answer(thing=known), tuple(_names(s for s in view.services.values() if made_id in kind.used_by(s.spec)))
    old = find_payload(view, kind, thing_id)
    spec = _replace(old.spec, data=data)
    _check(kind, spec)
    number = old.number + 1
    fresh = kind.thing(id=made_id, spec=spec, number=number)  # type: ignore[arg-type]
    replaced = _replace(old, superseded_by=made_id)
    ids: set[str] = {each.id for each in versions_of(view, kind, old)}
    users = [service for service in view.services.values() if kind.used_by(service.spec) & ids]
    cause = f"{kind.noun} {old.spec.annotations.name} rotated to version {number}"
    ops: list[Op] = [update(replaced), create(fresh)]
    for service in users:
        ops += _rolled_over(view, service, kind.moved(service.spec, ids, made_id), cause, now)
    if len(ops) > OPS_MAX:
        raise FailedPrecondition(f"{len(users)} services use the {kind.noun}, too many for one change")
    return Answer(ops=tuple(ops), thing=fresh), tuple(_names(users))


def _certificates_of(spec: ServiceSpec) -> set[str]:
    """Return the secrets, by name, that gateways use for a service's ports."""
    ports = (wanted(port, spec.annotations.labels) for port in spec.endpoint.ports)
    return {port.ingress.tls_secret.lower() for port in ports}


def versions_of(view: View, kind: Kind[ThingT], thing: ThingT) -> list[ThingT]:
    """Return all versions under a name, newest first."""
    name = thing.spec.annotations.name.lower()
    found = [each for each in kind.all(view).values() if each.spec.annotations.name.lower() == name]
    return sorted(found, key=lambda each: -each.number)


def find_payload(view: View, kind: Kind[ThingT], ref: str) -> ThingT:
    """Return what is meant by id, by name (the current version) or prefix of an id."""
    things = kind.all(view)
    current = next(
        (
            each
            for each in things.values()
            if each.superseded_by is None and each.spec.annotations.name.lower() == ref.lower()
        ),
        None,
    )
    return find_named(kind.noun, things, current, ref, lambda each: each.spec.annotations.name)


def _rolled_over(view: View, service: Service, spec: ServiceSpec, cause: str, now: float) -> Iterable[Op]:
    """A job only takes the new version at its next run."""
    rolling = UpdateStatus(state=UpdateState.UPDATING, started_at=now, message=cause, on_failure=FailureAction.ROLLBACK)
    fresh = _replace(
        service,
        spec=spec,
        spec_version=next_version(view, service),
        previous_spec=service.spec,
        previous_spec_version=service.spec_version,
        update_status=service.update_status if is_job(spec) else rolling,
    )
    yield update(fresh)
    template = stored_spec(view, fresh)
    if template is not None:
        yield create(template)


def _check(kind: Kind[ThingT], spec: SecretSpec | ConfigSpec) -> None:
    problems = kind.problems(spec)
    if problems:
        raise InvalidArgument.of(problems)


def _is_asked(thing: Secret | Config, filters: Filters) -> bool:
    name, labels = thing.spec.annotations.name, thing.spec.annotations.labels
    if filters.names or filters.name_prefixes or filters.id_prefixes:
        named = name in filters.names or any(name.startswith(prefix) for prefix in filters.name_prefixes)
        if not named and not any(thing.id.startswith(prefix) for prefix in filters.id_prefixes):
            return False
    return all(key in labels and (not value or labels[key] == value) for key, value in filters.labels.items())


def _names(services: Iterable[Service]) -> list[str]:
    return sorted(service.spec.annotations.name for service in services)


def _counted(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return f"service {shown}" if len(names) == 1 else f"services {shown}" + (", …" if len(names) > 5 else "")
