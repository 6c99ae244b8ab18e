"""Handlers for secrets and configs, part of the control API; the rules are in core/control/payloads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from services.dispatcher.core.control import payloads
from services.dispatcher.core.control.answers import Answer
from services.dispatcher.core.control.payloads import CONFIGS, SECRETS, Kind, ThingT
from services.kit.bus.api import Context
from services.kit.bus.rpc import Table
from services.kit.lifecycle.app import Runtime
from services.kit.messages import payloads as messages
from services.kit.messages.control import GetRequest, ListRequest
from services.kit.messages.method import Empty
from services.kit.model.objects import Config, Object, Secret
from services.kit.state.state import State

Change = Callable[[Context, Callable[[], Answer]], Awaitable[Object]]
"""Judges a request and makes the writes that it comes to."""


class Readable(Protocol):
    """Waits until the state may be read."""

    async def __call__(self, *, stale: bool) -> None:
        """Return when it may."""


class Payloads:
    """Answers users about secrets and configs."""

    def __init__(self, runtime: Runtime, state: State, readable: Readable, change: Change) -> None:
        self._runtime = runtime
        self._state = state
        self._readable = readable
        self._change = change

    def serve(self, table: Table) -> None:
        """Put the handlers into a table."""
        table.on_call(messages.LIST_SECRETS, self._list_secrets)
        table.on_call(messages.GET_SECRET, self._get_secret)
        table.on_call(messages.CREATE_SECRET, self._create_secret)
        table.on_call(messages.UPDATE_SECRET, self._update_secret)
        table.on_call(messages.REMOVE_SECRET, self._remove_secret)
        table.on_call(messages.ROTATE_SECRET, self._rotate_secret)
        table.on_call(messages.LIST_CONFIGS, self._list_configs)
        table.on_call(messages.GET_CONFIG, self._get_config)
        table.on_call(messages.CREATE_CONFIG, self._create_config)
        table.on_call(messages.UPDATE_CONFIG, self._update_config)
        table.on_call(messages.REMOVE_CONFIG, self._remove_config)
        table.on_call(messages.ROTATE_CONFIG, self._rotate_config)

    # -- secrets

    async def _list_secrets(self, context: Context, request: ListRequest) -> messages.SecretList:
        await self._readable(stale=request.stale)
        found = payloads.list_payloads(self._state, SECRETS, request.filters)
        return messages.SecretList(secrets=tuple(payloads.shown_secret(secret) for secret in found))

    async def _get_secret(self, context: Context, request: GetRequest) -> messages.SecretReply:
        await self._readable(stale=request.stale)
        return _secret(payloads.find_payload(self._state, SECRETS, request.ref))

    async def _create_secret(self, context: Context, request: messages.CreateSecretRequest) -> messages.SecretReply:
        fresh = self._runtime.ids.new("secret")
        return _secret(
            await self._change(
                context, lambda: payloads.create_payload(self._state, SECRETS, request.spec, request.request_id, fresh)
            )
        )

    async def _update_secret(self, context: Context, request: messages.UpdateSecretRequest) -> messages.SecretReply:
        return _secret(
            await self._change(
                context,
                lambda: payloads.update_payload(self._state, SECRETS, request.secret_id, request.version, request.spec),
            )
        )

    async def _remove_secret(self, context: Context, request: messages.RemoveSecretRequest) -> Empty:
        await self._change(context, lambda: payloads.remove_payload(self._state, SECRETS, request.secret_id))
        return Empty()

    async def _rotate_secret(self, context: Context, request: messages.RotateSecretRequest) -> messages.Rotation:
        made, users = await self._rotate(context, SECRETS, request.secret_id, request.data, request.request_id)
        return messages.Rotation(secret=payloads.shown_secret(cast("Secret", made)), services=users)

    # -- configs

    async def _list_configs(self, context: Context, request: ListRequest) -> messages.ConfigList:
        await self._readable(stale=request.stale)
        return messages.ConfigList(configs=payloads.list_payloads(self._state, CONFIGS, request.filters))

    async def _get_config(self, context: Context, request: GetRequest) -> messages.ConfigReply:
        await self._readable(stale=request.stale)
        return _config(payloads.find_payload(self._state, CONFIGS, request.ref))

    async def _create_config(self, context: Context, request: messages.CreateConfigRequest) -> messages.ConfigReply:
        fresh = self._runtime.ids.new("config")
        return _config(
            await self._change(
                context, lambda: payloads.create_payload(self._state, CONFIGS, request.spec, request.request_id, fresh)
            )
        )

    async def _update_config(self, context: Context, request: messages.UpdateConfigRequest) -> messages.ConfigReply:
        return _config(
            await self._change(
                context,
                lambda: payloads.update_payload(self._state, CONFIGS, request.config_id, request.version, request.spec),
            )
        )

    async def _remove_config(self, context: Context, request: messages.RemoveConfigRequest) -> Empty:
        await self._change(context, lambda: payloads.remove_payload(self._state, CONFIGS, request.config_id))
        return Empty()

    async def _rotate_config(self, context: Context, request: messages.RotateConfigRequest) -> messages.Rotation:
        made, users = await self._rotate(context, CONFIGS, request.config_id, request.data, request.request_id)
        return messages.Rotation(config=cast("Config", made), services=users)

    # -- inside

    async def _rotate(
        self, context: Context, kind: Kind[ThingT], ref: str, data: bytes, request_id: str
    ) -> tuple[Object, tuple[str, ...]]:
        fresh = self._runtime.ids.new(kind.noun)
        users: tuple[str, ...] = ()

        def judge() -> Answer:
            nonlocal users
            now = self._runtime.clock.wall()
            answer, users = payloads.rotate_payload(self._state, kind, ref, data, request_id, fresh, now)
            return answer

        made = await self._change(context, judge)
        return made, users


def _secret(thing: Object) -> messages.SecretReply:
    assert isinstance(thing, Secret)
    return messages.SecretReply(secret=payloads.shown_secret(thing))


def _config(thing: Object) -> messages.ConfigReply:
    assert isinstance(thing, Config)
    return messages.ConfigReply(config=thing)
