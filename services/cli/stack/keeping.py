"""Carries out what a deployment does with a stack's networks, secrets and configs, over the client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from services.cli.stack.networks import StackNetwork
from services.cli.stack.payloads import (
    FINGERPRINT,
    SALT_BYTES,
    PayloadStep,
    StackPayload,
    config_spec,
    fingerprint,
    secret_spec,
)
from services.client.client import Client
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import SecretSpec
from services.kit.runtime.ids import SystemIds

Kept = Mapping[tuple[str, str], Secret | Config]
"""Current secrets and configs by noun and name."""


async def kept(client: Client) -> dict[tuple[str, str], Secret | Config]:
    """Return all that there are; superseded versions are left out."""
    secrets = {
        ("secret", each.spec.annotations.name): each for each in await client.secrets.list() if not each.superseded_by
    }
    configs = {
        ("config", each.spec.annotations.name): each for each in await client.configs.list() if not each.superseded_by
    }
    return {**secrets, **configs}


def of_stack(there: Kept, label: str, stack: str) -> set[tuple[str, str]]:
    """Return those that a stack made."""
    return {key for key, each in there.items() if each.spec.annotations.labels.get(label) == stack}


async def carry_out(client: Client, step: PayloadStep, payloads: Iterable[StackPayload]) -> None:
    """Create, rotate or remove one of them."""
    if step.verb == "remove":
        await (client.secrets if step.noun == "secret" else client.configs).remove(step.name)
        return
    payload = next(each for each in payloads if (each.noun, each.name) == (step.noun, step.name))
    assert payload.data is not None, "an external one has no step"
    salt = SystemIds().secret("salt", SALT_BYTES)
    if step.verb == "create":
        if step.noun == "secret":
            await client.secrets.create(secret_spec(payload, salt))
        else:
            await client.configs.create(config_spec(payload))
    elif step.verb == "rotate":
        if step.noun == "config":
            await client.configs.rotate(step.name, payload.data)
            return
        await client.secrets.rotate(step.name, payload.data)
        mark = fingerprint(payload.data, salt)
        await client.secrets.update(step.name, lambda spec: _marked(spec, mark))


async def carry_out_network(client: Client, step: PayloadStep, networks: Iterable[StackNetwork]) -> None:
    """Create or remove a network."""
    if step.verb == "remove":
        await client.networks.remove(step.name)
        return
    network = next(each for each in networks if each.name == step.name)
    assert network.spec is not None, "an external one has no step"
    await client.networks.create(network.spec)


def _marked(spec: SecretSpec, mark: str) -> SecretSpec:
    labels = {**spec.annotations.labels, FINGERPRINT: mark}
    return replace(spec, annotations=replace(spec.annotations, labels=labels))
