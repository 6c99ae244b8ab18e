"""Networks of the blocking client."""

from __future__ import annotations

from services.client.loop_thread import LoopThread
from services.client.networks import Networks
from services.kit.messages.control import Filters
from services.kit.model.objects import Network
from services.kit.model.specs import NetworkSpec


class BlockingNetworks:
    """``client.networks`` without asyncio; see ``Networks``."""

    def __init__(self, thread: LoopThread, networks: Networks) -> None:
        self._thread = thread
        self._networks = networks

    def create(self, spec: NetworkSpec) -> Network:
        """Create a network."""
        return self._thread.run(self._networks.create(spec))

    def get(self, ref: str, *, stale: bool = False) -> Network:
        """Return one network."""
        return self._thread.run(self._networks.get(ref, stale=stale))

    def list(self, filters: Filters = Filters(), *, stale: bool = False) -> tuple[Network, ...]:
        """Return networks by name."""
        return self._thread.run(self._networks.list(filters, stale=stale))

    def remove(self, ref: str) -> Network:
        """Remove a network."""
        return self._thread.run(self._networks.remove(ref))
