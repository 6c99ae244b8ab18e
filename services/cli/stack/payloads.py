"""Secrets and configs of a stack file: what they hold, how services use them, and what a deployment does with them.

A service names them by their full names until they have ids; ``with_ids`` puts those in. What must stay true: the data of a secret is never
shown, so whether it changed is told by a salted fingerprint that is kept as its label.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from services.cli.stack.places import Place
from services.cli.stack.words import read_labels, switch, text_of
from services.client import text
from services.kit.model.ids import ConfigId, SecretId
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ConfigSpec,
    FileTarget,
    SecretReference,
    SecretSpec,
    ServiceSpec,
)
from services.kit.model.value import Value

FINGERPRINT = "swarmbus.fingerprint"
SALT_BYTES = 16
TOP_KEYS = ("name", "file", "environment", "content", "external", "labels", "template_driver")
USE_KEYS = ("source", "target", "uid", "gid", "mode")
_SCRYPT_COST = 1 << 12


class StackPayload(Value, frozen=True, kw_only=True):
    """A secret or config of the file."""

    noun: str
    """secret or config."""
    name: str
    """In the swarm."""
    data: bytes | None = None
    """None for one that exists outside of the stack."""
    labels: dict[str, str] = {}
    templating: str = ""


def read_payloads(noun: str, place: Place | None, stack: str, label: str) -> dict[str, StackPayload]:
    """Return the secrets or configs by the names that the file's services use."""
    if place is None:
        return {}
    return {key: _payload(noun, key, value, stack, label) for key, value in place.fields().items()}


def _payload(noun: str, key: str, place: Place, stack: str, label: str) -> StackPayload:
    fields = place.fields(TOP_KEYS)
    external = fields["external"].parsed(switch, False) if "external" in fields else False
    name = text_of(fields.get("name")) or (key if external else f"{stack}_{key}")
    sources = [source for source in ("file", "environment", "content") if source in fields]
    if external:
        if sources:
            place.refuse("is external and says what it holds", hint="leave out one of both")
        return StackPayload(noun=noun, name=name)
    if len(sources) != 1:
        place.refuse("needs one of file, environment and content", hint="or external: true")
    data = _data(fields, sources[0]) if sources else b""
    labels = {**read_labels(fields.get("labels")), label: stack}
    templating = text_of(fields.get("template_driver"))
    return StackPayload(noun=noun, name=name, data=data, labels=labels, templating=templating)


def _data(fields: Mapping[str, Place], source: str) -> bytes:
    place = fields[source]
    given = place.text()
    if source == "content":
        return given.encode()
    if source == "environment":
        if given not in place.stack.environment:
            place.refuse("the variable is not set", given)
        return place.stack.environment.get(given, "").encode()
    try:
        return (place.folder / given).read_bytes()
    except OSError as error:
        place.refuse(f"cannot be read: {error.strerror}", given)
        return b""


def read_secrets(place: Place | None, known: Mapping[str, StackPayload]) -> tuple[SecretReference, ...]:
    """Return what a service uses; the id is the name until ``with_ids``."""
    return tuple(
        SecretReference(secret_id=SecretId(used.name), secret_name=used.name, target=target)
        for used, target in _uses(place, known, lambda source: source)
    )


def read_configs(place: Place | None, known: Mapping[str, StackPayload]) -> tuple[ConfigReference, ...]:
    """Return what a service uses; the id is the name until ``with_ids``."""
    return tuple(
        ConfigReference(config_id=ConfigId(used.name), config_name=used.name, target=target)
        for used, target in _uses(place, known, lambda source: f"/{source}")
    )


def _uses(
    place: Place | None, known: Mapping[str, StackPayload], usual: Callable[[str], str]
) -> Iterable[tuple[StackPayload, FileTarget]]:
    for item in [] if place is None else place.items():
        fields = item.fields(USE_KEYS) if item.is_mapping else {"source": item}
        source = text_of(fields.get("source"))
        if source not in known:
            item.refuse("is not in the file", source, "add it at the top")
            continue
        target = FileTarget(
            name=text_of(fields.get("target")) or usual(source),
            uid=text_of(fields.get("uid")) or "0",
            gid=text_of(fields.get("gid")) or "0",
            mode=fields["mode"].parsed(_mode, 0o444) if "mode" in fields else 0o444,
        )
        yield known[source], target


def _mode(value: str, path: str) -> int:
    digits = value.removeprefix("0o")
    if not re.fullmatch(r"[0-7]+", digits):
        text.refuse(path, "is not an octal number", value, "write it like 0440")
    return int(digits, 8)


# -- what a deployment does with them


class PayloadStep(Value, frozen=True, kw_only=True):
    """What happens to one of them."""

    verb: str
    """create, rotate, leave or remove."""
    noun: str
    name: str


def plan_payloads(
    wanted: Iterable[StackPayload], there: Mapping[tuple[str, str], Secret | Config], gone: Iterable[tuple[str, str]]
) -> tuple[PayloadStep, ...]:
    """Return a step for each; ``there`` has the current ones by noun and name, ``gone`` those that the stack no longer has."""
    steps = []
    for payload in wanted:
        if payload.data is None:
            continue
        known = there.get((payload.noun, payload.name))
        verb = "create" if known is None else "leave" if holds(known, payload.data) else "rotate"
        steps.append(PayloadStep(verb=verb, noun=payload.noun, name=payload.name))
    return (*steps, *(PayloadStep(verb="remove", noun=noun, name=name) for noun, name in sorted(gone)))


def holds(known: Secret | Config, data: bytes) -> bool:
    """Tell whether a secret or config holds this data; one without a fingerprint is taken for changed."""
    if isinstance(known, Config):
        return known.spec.data == data
    mark = known.spec.annotations.labels.get(FINGERPRINT, "")
    salt, _, _ = mark.partition(":")
    return bool(mark) and fingerprint(data, bytes.fromhex(salt)) == mark


def fingerprint(data: bytes, salt: bytes) -> str:
    """Return a mark of data that tells a change and not the data: slow to guess by, different for each salt."""
    digest = hashlib.scrypt(data, salt=salt, n=_SCRYPT_COST, r=8, p=1, dklen=16)
    return f"{salt.hex()}:{digest.hex()}"


def secret_spec(payload: StackPayload, salt: bytes) -> SecretSpec:
    """Return the spec of a secret that is created."""
    assert payload.data is not None, "an external one is not created"
    labels = {**payload.labels, FINGERPRINT: fingerprint(payload.data, salt)}
    annotations = Annotations(name=payload.name, labels=labels)
    return SecretSpec(annotations=annotations, data=payload.data, templating=payload.templating)


def config_spec(payload: StackPayload) -> ConfigSpec:
    """Return the spec of a config that is created."""
    assert payload.data is not None, "an external one is not created"
    annotations = Annotations(name=payload.name, labels=payload.labels)
    return ConfigSpec(annotations=annotations, data=payload.data, templating=payload.templating)


def with_ids(spec: ServiceSpec, ids: Mapping[tuple[str, str], str]) -> ServiceSpec:
    """Return a spec whose uses have the ids of what they name; what is not there yet keeps its name."""
    container = spec.task.container
    secrets = tuple(
        replace(use, secret_id=SecretId(ids.get(("secret", use.secret_name), use.secret_id)))
        for use in container.secrets
    )
    configs = tuple(
        replace(use, config_id=ConfigId(ids.get(("config", use.config_name), use.config_id)))
        for use in container.configs
    )
    return replace(spec, task=replace(spec.task, container=replace(container, secrets=secrets, configs=configs)))
