"""Payloads: secrets and configs, part of what users ask of the control API. Answered by the leader's dispatcher.

A payload's data never changes; ``rotate`` makes a new version of it, which takes over the name.
"""

from __future__ import annotations

from services.kit.messages.control import GetRequest, ListRequest
from services.kit.messages.method import MANAGERS, Call, Empty, Owner
from services.kit.model.ids import ConfigId, SecretId
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import ConfigSpec, SecretSpec
from services.kit.model.value import Value


class SecretReply(Value, frozen=True, kw_only=True):
    """One secret, never its data."""

    secret: Secret


class SecretList(Value, frozen=True, kw_only=True):
    """Secrets by name, superseded versions behind their successors; never their data."""

    secrets: tuple[Secret, ...] = ()


class CreateSecretRequest(Value, frozen=True, kw_only=True):
    """Create a secret. The same request id twice creates one."""

    spec: SecretSpec
    request_id: str = ""


class UpdateSecretRequest(Value, frozen=True, kw_only=True):
    """Change a secret's labels; the rest never changes."""

    secret_id: SecretId
    version: int
    spec: SecretSpec


class RemoveSecretRequest(Value, frozen=True, kw_only=True):
    """Remove a secret with all of its versions; refused while a service uses one."""

    secret_id: SecretId


class RotateSecretRequest(Value, frozen=True, kw_only=True):
    """Make a new version with this data and roll its users over to it; a user that fails goes back to the version before."""

    secret_id: SecretId
    data: bytes
    request_id: str = ""


class ConfigReply(Value, frozen=True, kw_only=True):
    """One config with its data."""

    config: Config


class ConfigList(Value, frozen=True, kw_only=True):
    """Configs by name, superseded versions behind their successors."""

    configs: tuple[Config, ...] = ()


class CreateConfigRequest(Value, frozen=True, kw_only=True):
    """Create a config. The same request id twice creates one."""

    spec: ConfigSpec
    request_id: str = ""


class UpdateConfigRequest(Value, frozen=True, kw_only=True):
    """Change a config's labels; the rest never changes."""

    config_id: ConfigId
    version: int
    spec: ConfigSpec


class RemoveConfigRequest(Value, frozen=True, kw_only=True):
    """Remove a config with all of its versions; refused while a service uses one."""

    config_id: ConfigId


class RotateConfigRequest(Value, frozen=True, kw_only=True):
    """Make a new version with this data and roll its users over to it; a user that fails goes back to the version before."""

    config_id: ConfigId
    data: bytes
    request_id: str = ""


class Rotation(Value, frozen=True, kw_only=True):
    """What a rotation began: the new version and the services that are rolled over."""

    secret: Secret | None = None
    config: Config | None = None
    services: tuple[str, ...] = ()
    """Names."""


LIST_SECRETS = Call(
    name="control.list_secrets",
    request=ListRequest,
    reply=SecretList,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
GET_SECRET = Call(
    name="control.get_secret",
    request=GetRequest,
    reply=SecretReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
CREATE_SECRET = Call(
    name="control.create_secret",
    request=CreateSecretRequest,
    reply=SecretReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
UPDATE_SECRET = Call(
    name="control.update_secret",
    request=UpdateSecretRequest,
    reply=SecretReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
REMOVE_SECRET = Call(
    name="control.remove_secret",
    request=RemoveSecretRequest,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
ROTATE_SECRET = Call(
    name="control.rotate_secret",
    request=RotateSecretRequest,
    reply=Rotation,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
LIST_CONFIGS = Call(
    name="control.list_configs",
    request=ListRequest,
    reply=ConfigList,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
GET_CONFIG = Call(
    name="control.get_config",
    request=GetRequest,
    reply=ConfigReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
CREATE_CONFIG = Call(
    name="control.create_config",
    request=CreateConfigRequest,
    reply=ConfigReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
UPDATE_CONFIG = Call(
    name="control.update_config",
    request=UpdateConfigRequest,
    reply=ConfigReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
REMOVE_CONFIG = Call(
    name="control.remove_config",
    request=RemoveConfigRequest,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
ROTATE_CONFIG = Call(
    name="control.rotate_config",
    request=RotateConfigRequest,
    reply=Rotation,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)

METHODS = (
    LIST_SECRETS,
    GET_SECRET,
    CREATE_SECRET,
    UPDATE_SECRET,
    REMOVE_SECRET,
    ROTATE_SECRET,
    LIST_CONFIGS,
    GET_CONFIG,
    CREATE_CONFIG,
    UPDATE_CONFIG,
    REMOVE_CONFIG,
    ROTATE_CONFIG,
)
