"""A data plane that carries nothing: it takes the table, confirms it after a moment, and remembers to whom it would send connections.

It outlives its gateway as the real one does: the node keeps the table that was acted on last.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.gateway.core.table import Change
from services.gateway.plane.messages import Counts
from services.gateway.shell.keeper import Confirmed
from services.kit.messages.routes import Route
from services.kit.runtime.tasks import TaskOwner

if TYPE_CHECKING:
    from tests.sim.node import SimNode

ACT_MAX_S = 0.02


class SimPlane:
    """See the module (``gateway.shell.ingress.Plane``)."""

    def __init__(self, node: SimNode, confirmed: Confirmed) -> None:
        self.closed_ports: dict[str, str] = {}
        self._node = node
        self._confirmed = confirmed
        self._routes: dict[str, Route] = {}
        self._epoch = 0
        self._owner = TaskOwner("plane")
        self._pending = asyncio.Event()

    async def start(self) -> None:
        """Begin to act on tables."""
        self._owner.spawn("act", self._act())

    async def failed(self) -> BaseException:
        """Wait for a broken invariant."""
        return await self._owner.failed()

    def take(self, change: Change) -> None:
        """Act on a change soon."""
        routes = {} if change.full else dict(self._routes)
        for key in change.removed:
            routes.pop(key, None)
        routes.update((route.key, route) for route in change.routes)
        self._routes = routes
        self._epoch = change.epoch
        self._pending.set()

    async def counts(self) -> list[Counts]:
        """Nothing is carried."""
        return []

    async def drain(self, within_s: float) -> None:
        """Take no new connections."""
        self._node.sends_to = frozenset()
        await self._owner.close()

    async def detach(self) -> None:
        """Go on alone."""
        await self._owner.close()

    async def _act(self) -> None:
        while True:
            await self._pending.wait()
            self._pending.clear()
            await asyncio.sleep(self._node.rng.uniform(0, ACT_MAX_S))
            epoch = self._epoch
            self._node.sends_to = frozenset(
                backend.task_id for route in self._routes.values() for backend in route.backends if not backend.draining
            )
            self._confirmed(epoch, {})
