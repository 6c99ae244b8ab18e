"""Secrets and configs of the scripted control server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from services.kit.bus.api import Context
from services.kit.bus.rpc import Table as Methods
from services.kit.errors import AlreadyExists, FailedPrecondition, NotFound
from services.kit.messages import control, payloads
from services.kit.messages.method import Empty
from services.kit.model.ids import ConfigId, SecretId
from services.kit.model.objects import Config, Secret
from services.kit.state.transaction import create, remove, update

if TYPE_CHECKING:
    from tests.support.control_server import ControlServer


class Payloads:
    """Answers the methods of secrets and configs over the server's state."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server

    def answer(self, table: Methods) -> None:
        """Add the methods to a table."""
        server = self._server
        server.answer(table, payloads.LIST_SECRETS, self._list_secrets)
        server.answer(table, payloads.GET_SECRET, self._get_secret)
        server.answer(table, payloads.CREATE_SECRET, self._create_secret)
        server.answer(table, payloads.UPDATE_SECRET, self._update_secret)
        server.answer(table, payloads.REMOVE_SECRET, self._remove_secret)
        server.answer(table, payloads.ROTATE_SECRET, self._rotate_secret)
        server.answer(table, payloads.LIST_CONFIGS, self._list_configs)
        server.answer(table, payloads.GET_CONFIG, self._get_config)
        server.answer(table, payloads.CREATE_CONFIG, self._create_config)
        server.answer(table, payloads.UPDATE_CONFIG, self._update_config)
        server.answer(table, payloads.REMOVE_CONFIG, self._remove_config)

    def _secret(self, ref: str) -> Secret:
        for secret in self._server.state.secrets.values():
            if ref in {secret.id, secret.spec.annotations.name} and secret.superseded_by is None:
                return secret
        raise NotFound(f"there is no secret {ref!r}")

    def _config(self, ref: str) -> Config:
        for config in self._server.state.configs.values():
            if ref in {config.id, config.spec.annotations.name}:
                return config
        raise NotFound(f"there is no config {ref!r}")

    def _in_use(self, payload_id: str) -> bool:
        containers = [service.spec.task.container for service in self._server.state.services.values()]
        return any(
            payload_id in {each.secret_id for each in container.secrets}
            or payload_id in {each.config_id for each in container.configs}
            for container in containers
        )

    def _list_secrets(self, context: Context, request: control.ListRequest) -> payloads.SecretList:
        found = sorted(self._server.state.secrets.values(), key=lambda each: each.spec.annotations.name)
        return payloads.SecretList(secrets=tuple(_hidden(each) for each in found))

    def _get_secret(self, context: Context, request: control.GetRequest) -> payloads.SecretReply:
        return payloads.SecretReply(secret=_hidden(self._secret(request.ref)))

    def _create_secret(self, context: Context, request: payloads.CreateSecretRequest) -> payloads.SecretReply:
        name = request.spec.annotations.name
        if any(each.spec.annotations.name == name for each in self._server.state.secrets.values()):
            raise AlreadyExists(f"the secret name {name!r} is taken")
        secret = Secret(id=SecretId(self._server.ids.new("secret")), spec=request.spec)
        self._server.commit(create(secret))
        return payloads.SecretReply(secret=_hidden(self._server.state.secrets[secret.id]))

    def _update_secret(self, context: Context, request: payloads.UpdateSecretRequest) -> payloads.SecretReply:
        old = self._server.state.secrets[request.secret_id]
        spec = replace(old.spec, annotations=request.spec.annotations)
        self._server.commit(update(replace(old, spec=spec), base=request.version))
        return payloads.SecretReply(secret=_hidden(self._server.state.secrets[old.id]))

    def _remove_secret(self, context: Context, request: payloads.RemoveSecretRequest) -> Empty:
        if self._in_use(request.secret_id):
            raise FailedPrecondition("the secret is in use by a service")
        self._server.commit(remove(self._server.state.secrets[request.secret_id]))
        return Empty()

    def _rotate_secret(self, context: Context, request: payloads.RotateSecretRequest) -> payloads.Rotation:
        old = self._server.state.secrets[request.secret_id]
        fresh = Secret(
            id=SecretId(self._server.ids.new("secret")),
            spec=replace(old.spec, data=request.data),
            number=old.number + 1,
        )
        self._server.commit(update(replace(old, superseded_by=fresh.id)), create(fresh))
        return payloads.Rotation(secret=_hidden(self._server.state.secrets[fresh.id]), services=())

    def _list_configs(self, context: Context, request: control.ListRequest) -> payloads.ConfigList:
        found = sorted(self._server.state.configs.values(), key=lambda each: each.spec.annotations.name)
        return payloads.ConfigList(configs=tuple(found))

    def _get_config(self, context: Context, request: control.GetRequest) -> payloads.ConfigReply:
        return payloads.ConfigReply(config=self._config(request.ref))

    def _create_config(self, context: Context, request: payloads.CreateConfigRequest) -> payloads.ConfigReply:
        config = Config(id=ConfigId(self._server.ids.new("config")), spec=request.spec)
        self._server.commit(create(config))
        return payloads.ConfigReply(config=self._server.state.configs[config.id])

    def _update_config(self, context: Context, request: payloads.UpdateConfigRequest) -> payloads.ConfigReply:
        old = self._server.state.configs[request.config_id]
        spec = replace(old.spec, annotations=request.spec.annotations)
        self._server.commit(update(replace(old, spec=spec), base=request.version))
        return payloads.ConfigReply(config=self._server.state.configs[old.id])

    def _remove_config(self, context: Context, request: payloads.RemoveConfigRequest) -> Empty:
        if self._in_use(request.config_id):
            raise FailedPrecondition("the config is in use by a service")
        self._server.commit(remove(self._server.state.configs[request.config_id]))
        return Empty()


def _hidden(secret: Secret) -> Secret:
    """Return a secret without its data, as the control API shows it."""
    return replace(secret, spec=replace(secret.spec, data=b""))
