"""Secrets and configs, as the client sees them. A ``ref`` is an id, an exact name or an unambiguous prefix of an id."""

from __future__ import annotations

from collections.abc import Callable

from services.client.changes import write_changed
from services.client.line import ControlLine
from services.kit.messages import control, payloads
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import ConfigSpec, SecretSpec


class Secrets:
    """``client.secrets``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def create(self, spec: SecretSpec) -> Secret:
        """Create a secret. Safe to have repeated: the call carries a request id, and the same id creates once.

        Raises InvalidArgument with every mistake in the spec, AlreadyExists.
        """
        key = self._line.request_id()
        request = payloads.CreateSecretRequest(spec=spec, request_id=key)
        return (await self._line.call(payloads.CREATE_SECRET, request, repeatable=True, request_id=key)).secret

    async def get(self, ref: str, *, stale: bool = False) -> Secret:
        """Return one secret, never its data; a name means its newest version. Raises NotFound."""
        return (await self._line.call(payloads.GET_SECRET, control.GetRequest(ref=ref, stale=stale))).secret

    async def list(self, filters: control.Filters = control.Filters(), *, stale: bool = False) -> tuple[Secret, ...]:
        """Return secrets by name, superseded versions behind their successors."""
        request = control.ListRequest(filters=filters, stale=stale)
        return (await self._line.call(payloads.LIST_SECRETS, request)).secrets

    async def update(self, ref: str, change: Callable[[SecretSpec], SecretSpec]) -> Secret:
        """Change a secret's labels; nothing else can change."""

        async def read() -> Secret:
            return await self.get(ref)

        async def send(secret: Secret, spec: SecretSpec) -> Secret:
            request = payloads.UpdateSecretRequest(secret_id=secret.id, version=secret.meta.version, spec=spec)
            return (await self._line.call(payloads.UPDATE_SECRET, request)).secret

        return await write_changed(read, lambda secret: secret.spec, change, send)

    async def rotate(self, ref: str, data: bytes) -> payloads.Rotation:
        """Make a new version and roll the services that use it over to it; those that fail go back. Safe to have repeated."""
        secret_id = (await self.get(ref)).id
        key = self._line.request_id()
        request = payloads.RotateSecretRequest(secret_id=secret_id, data=data, request_id=key)
        return await self._line.call(payloads.ROTATE_SECRET, request, repeatable=True, request_id=key)

    async def remove(self, ref: str) -> Secret:
        """Remove a secret with all of its versions and return it as it was; refused while a service uses it."""
        secret = await self.get(ref)
        await self._line.remove(payloads.REMOVE_SECRET, payloads.RemoveSecretRequest(secret_id=secret.id))
        return secret


class Configs:
    """``client.configs``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def create(self, spec: ConfigSpec) -> Config:
        """Create a config. Safe to have repeated: the call carries a request id, and the same id creates once.

        Raises InvalidArgument with every mistake in the spec, AlreadyExists.
        """
        key = self._line.request_id()
        request = payloads.CreateConfigRequest(spec=spec, request_id=key)
        return (await self._line.call(payloads.CREATE_CONFIG, request, repeatable=True, request_id=key)).config

    async def get(self, ref: str, *, stale: bool = False) -> Config:
        """Return one config; a name means its newest version. Raises NotFound."""
        return (await self._line.call(payloads.GET_CONFIG, control.GetRequest(ref=ref, stale=stale))).config

    async def list(self, filters: control.Filters = control.Filters(), *, stale: bool = False) -> tuple[Config, ...]:
        """Return configs by name, superseded versions behind their successors."""
        request = control.ListRequest(filters=filters, stale=stale)
        return (await self._line.call(payloads.LIST_CONFIGS, request)).configs

    async def update(self, ref: str, change: Callable[[ConfigSpec], ConfigSpec]) -> Config:
        """Change a config's labels; nothing else can change."""

        async def read() -> Config:
            return await self.get(ref)

        async def send(config: Config, spec: ConfigSpec) -> Config:
            request = payloads.UpdateConfigRequest(config_id=config.id, version=config.meta.version, spec=spec)
            return (await self._line.call(payloads.UPDATE_CONFIG, request)).config

        return await write_changed(read, lambda config: config.spec, change, send)

    async def rotate(self, ref: str, data: bytes) -> payloads.Rotation:
        """Make a new version and roll the services that use it over to it; those that fail go back. Safe to have repeated."""
        config_id = (await self.get(ref)).id
        key = self._line.request_id()
        request = payloads.RotateConfigRequest(config_id=config_id, data=data, request_id=key)
        return await self._line.call(payloads.ROTATE_CONFIG, request, repeatable=True, request_id=key)

    async def remove(self, ref: str) -> Config:
        """Remove a config with all of its versions and return it as it was; refused while a service uses it."""
        config = await self.get(ref)
        await self._line.remove(payloads.REMOVE_CONFIG, payloads.RemoveConfigRequest(config_id=config.id))
        return config
