"""What the services of a stack file share: its volumes, networks, secrets and configs, by the names that the services use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.cli.stack.mounts import Volume
from services.cli.stack.networks import StackNetwork
from services.cli.stack.payloads import StackPayload


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """See the module."""

    volumes: Mapping[str, Volume]
    secrets: Mapping[str, StackPayload]
    configs: Mapping[str, StackPayload]
    networks: Mapping[str, StackNetwork]

    @property
    def payloads(self) -> tuple[StackPayload, ...]:
        """All secrets and configs."""
        return (*self.secrets.values(), *self.configs.values())
