"""Linearizable reads: a barrier, then a view that has reached it. Reads that wait at the same time share one barrier."""

from __future__ import annotations

import asyncio

from services.kit.errors import DeadlineExceeded
from services.kit.runtime.metrics import STORE_READ
from services.kit.runtime.tasks import TaskOwner
from services.kit.store.client import StoreClient
from services.kit.store.replica import Replica


class Reads:
    """Brings the replica to where a read may look at it."""

    def __init__(self, store: StoreClient, replica: Replica, tasks: TaskOwner, timeout_s: float) -> None:
        self._store = store
        self._replica = replica
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._next: asyncio.Future[int] | None = None
        self._running = False

    async def fresh(self) -> None:
        """Wait until the replica holds everything that was acknowledged before this call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        waited_for = self._next
        if not self._running:
            self._running = True
            self._tasks.spawn("barriers", self._run())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._replica.wait_version(await asyncio.shield(waited_for))
        except TimeoutError:
            raise DeadlineExceeded("the store did not confirm the read in time") from None
        finally:
            STORE_READ.observe(loop.time() - begun)

    async def reached(self, version: int) -> None:
        """Wait until the replica holds a transaction of this process."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._replica.wait_version(version)
        except TimeoutError:
            raise DeadlineExceeded("this manager's copy of the store is too far behind") from None

    async def _run(self) -> None:
        """Run one barrier after the other for as long as anybody waits; each serves all who came before it began."""
        try:
            while self._next is not None:
                served, self._next = self._next, None
                try:
                    version = await self._store.barrier(timeout_s=self._timeout_s)
                except Exception as error:  # noqa: BLE001 - every reader gets it
                    if not served.done():
                        served.set_exception(error)
                        served.exception()
                else:
                    if not served.done():
                        served.set_result(version)
        finally:
            self._running = False
