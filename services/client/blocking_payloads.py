"""Secrets and configs of the blocking client."""

from __future__ import annotations

from collections.abc import Callable

from services.client.loop_thread import LoopThread
from services.client.payloads import Configs, Secrets
from services.kit.messages.control import Filters
from services.kit.messages.payloads import Rotation
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import ConfigSpec, SecretSpec


class BlockingSecrets:
    """``client.secrets`` without asyncio; see ``Secrets``."""

    def __init__(self, thread: LoopThread, secrets: Secrets) -> None:
        self._thread = thread
        self._secrets = secrets

    def create(self, spec: SecretSpec) -> Secret:
        """Create a secret."""
        return self._thread.run(self._secrets.create(spec))

    def get(self, ref: str, *, stale: bool = False) -> Secret:
        """Return one secret."""
        return self._thread.run(self._secrets.get(ref, stale=stale))

    def list(self, filters: Filters = Filters(), *, stale: bool = False) -> tuple[Secret, ...]:
        """Return secrets by name."""
        return self._thread.run(self._secrets.list(filters, stale=stale))

    def update(self, ref: str, change: Callable[[SecretSpec], SecretSpec]) -> Secret:
        """Change a secret's labels."""
        return self._thread.run(self._secrets.update(ref, change))

    def rotate(self, ref: str, data: bytes) -> Rotation:
        """Make a new version and roll its users over to it."""
        return self._thread.run(self._secrets.rotate(ref, data))

    def remove(self, ref: str) -> Secret:
        """Remove a secret with all of its versions."""
        return self._thread.run(self._secrets.remove(ref))


class BlockingConfigs:
    """``client.configs`` without asyncio; see ``Configs``."""

    def __init__(self, thread: LoopThread, configs: Configs) -> None:
        self._thread = thread
        self._configs = configs

    def create(self, spec: ConfigSpec) -> Config:
        """Create a config."""
        return self._thread.run(self._configs.create(spec))

    def get(self, ref: str, *, stale: bool = False) -> Config:
        """Return one config."""
        return self._thread.run(self._configs.get(ref, stale=stale))

    def list(self, filters: Filters = Filters(), *, stale: bool = False) -> tuple[Config, ...]:
        """Return configs by name."""
        return self._thread.run(self._configs.list(filters, stale=stale))

    def update(self, ref: str, change: Callable[[ConfigSpec], ConfigSpec]) -> Config:
        """Change a config's labels."""
        return self._thread.run(self._configs.update(ref, change))

    def rotate(self, ref: str, data: bytes) -> Rotation:
        """Make a new version and roll its users over to it."""
        return self._thread.run(self._configs.rotate(ref, data))

    def remove(self, ref: str) -> Config:
        """Remove a config with all of its versions."""
        return self._thread.run(self._configs.remove(ref))
