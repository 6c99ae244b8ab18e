"""Settings of a node: the options of ``supervisor up``, each also as ``SWARMBUS_<NAME>`` and as a key of a settings file (TOML).

A flag wins over the environment, the environment over the file, the file over the default. A field's description is the help text of
its flag, so this file is the one place where an option is explained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from services.kit.bus.ports import node_ports
from services.kit.errors import InvalidArgument, Problem
from services.kit.lifecycle.settings import ENVIRONMENT_PREFIX, LogLevel, checked_state_dir
from services.kit.model.states import Availability

TICK_S = 0.06
_SHOWN_MAX = 80
SECRETS = frozenset({"join_token", "unlock_key"})
"""Settings that no child is told and no message repeats."""


class NodeSettings(BaseSettings):
    """Everything that can be said about a node when it starts."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid")

    state_dir: Path = Field(
        Path("/var/lib/swarmbus"), description="directory of the node's identity, store and tasks; one node each"
    )
    join_token: SecretStr = Field(
        SecretStr(""), description="join token of the cluster to join (its role comes with it); needs --join-addr"
    )
    join_addr: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="remote API of a manager to join, host:port; may be given several times, the first that answers is taken",
    )
    hostname: str = Field("", description="name of this node in listings; the machine's host name when not given")
    listen_remote_api: str = Field(
        "0.0.0.0:4242",
        description="host:port of the remote API; the two ports above it serve joining nodes and the managers' store",
    )
    advertise_remote_api: str = Field(
        "", description="host:port under which other nodes reach this one, when it differs from where it listens"
    )
    listen_control_api: str = Field(
        "", description="local socket for swarmctl; control.sock in the state directory when not given"
    )
    engine_addr: str = Field(
        "unix:///var/run/docker.sock", description="address of the container engine for tasks of the docker driver"
    )
    availability: Availability = Field(
        Availability.ACTIVE, description="whether the scheduler uses this node when it joins: active, pause or drain"
    )
    generic_node_resources: str = Field(
        "", description="countable things of this node that tasks can reserve, for example fpga=2,gpu=U1,gpu=U2"
    )
    force_new_cluster: bool = Field(
        default=False, description="make this manager the only one of its cluster, keeping services and tasks"
    )
    autolock: bool = Field(
        default=False, description="lock the managers of a new cluster: each starts only with the unlock key"
    )
    unlock_key: SecretStr = Field(SecretStr(""), description="unlock key of a locked manager, SWMKEY-1-…")
    listen_http: str = Field(
        "",
        description="serve Docker's swarm API, the page and metrics over HTTP: unix:///path or host:port, several with commas",
    )
    http_tls_dir: str = Field(
        "", description="directory with ca.pem, cert.pem and key.pem: HTTP over TCP then asks for a client certificate"
    )
    http_token_file: str = Field(
        "", description="file with the token that lets HTTP clients without a certificate change things"
    )
    listen_metrics: str = Field(
        "", description="host:port where Prometheus reads what every process of this node measures, at /metrics"
    )
    listen_discovery: str = Field(
        "", description="host:port for the gateway's metrics and discovery (Prometheus, Traefik) over plain HTTP"
    )
    listen_dns: str = Field("", description="host:port where the gateway answers names of services, in the zone swarm.")
    mesh_port: int = Field(
        0, ge=0, le=65535, description="port for connections from other nodes' gateways; any free one when not given"
    )
    heartbeat_tick: int = Field(
        1, ge=1, le=100, description="ticks of 60 ms between two heartbeats of the store's leader"
    )
    election_tick: int = Field(
        4,
        ge=2,
        le=1000,
        description="ticks without a heartbeat after which managers elect a new leader (up to twice that)",
    )
    log_level: LogLevel = Field(
        "info", description="least important lines to show: debug, info, warn, error, fatal or panic"
    )

    @field_validator("join_addr", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        """In the environment several addresses are written with commas."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("state_dir")
    @classmethod
    def _sockets_fit(cls, path: Path) -> Path:
        return checked_state_dir(path)

    @field_validator("engine_addr")
    @classmethod
    def _engine_is_local(cls, value: str) -> str:
        if not value.startswith("unix:///"):
            raise ValueError("an engine is reached over a local socket: write unix:///path")
        return value

    @field_validator(
        "listen_remote_api", "advertise_remote_api", "join_addr", "listen_metrics", "listen_discovery", "listen_dns"
    )
    @classmethod
    def _addresses_parse(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for address in (value,) if isinstance(value, str) else value:
            if address:
                _check_address(address)
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.election_tick <= self.heartbeat_tick:
            raise ValueError("election_tick must be greater than heartbeat_tick")
        if self.join_token.get_secret_value() and not self.join_addr:
            raise ValueError("join_token needs join_addr: the address of a manager of that cluster")
        return self

    @property
    def run_dir(self) -> Path:
        """Where the sockets of the node's processes are."""
        return self.state_dir / "run"

    @property
    def supervisor_socket(self) -> str:
        """Where the supervisor listens."""
        return str(self.run_dir / "supervisor.sock")

    @property
    def control_socket(self) -> str:
        """Where the gateway serves users."""
        return self.listen_control_api or str(self.state_dir / "control.sock")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, settings file (named by ``toml_file`` in the configuration of a subclass)."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def _check_address(text: str) -> None:
    try:
        node_ports(text)
    except InvalidArgument as error:
        problem = error.problems[0]
        raise ValueError(f"{problem.reason}; {problem.hint}") from None


def settings_from(flags: dict[str, object], settings_file: Path | None) -> NodeSettings:
    """Return the settings from flags, environment and file; raises InvalidArgument with every mistake found."""
    source = NodeSettings if settings_file is None else _with_file(settings_file)
    try:
        return source(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InvalidArgument.of(tuple(_problem(item) for item in error.errors(include_url=False))) from None
    except (OSError, ValueError) as error:
        raise _bad_file(str(error)) from None


def _with_file(path: Path) -> type[NodeSettings]:
    if not path.is_file():
        raise _bad_file(f"there is no file {path}")

    class FromFile(NodeSettings):
        model_config = SettingsConfigDict(toml_file=path)

    return FromFile


def _bad_file(reason: str) -> InvalidArgument:
    return InvalidArgument.of((Problem(path="settings_file", reason=f"cannot be read: {reason}"),))


def _problem(item: ErrorDetails) -> Problem:
    """Return one of pydantic's complaints as ours. The input of a whole-model check holds everything, secrets too: not shown."""
    name = str(item["loc"][0]) if item["loc"] else "settings"
    shown = isinstance(item["input"], str | int | float) and name not in SECRETS
    reason = item["msg"].removeprefix("Value error, ")
    return Problem(path=name, reason=reason, value=str(item["input"])[:_SHOWN_MAX] if shown else "")
