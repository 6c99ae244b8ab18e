"""A child's line to its supervisor: the orders stream, the facts of the node, and what the child reports.

Made by ``process.py``, handed to the app as ``Runtime.node``. What must stay true: the bus has the identity of the facts before
anybody sees them, and every waiter sees the newest facts (changes that follow one another quickly may be seen as one).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from services.kit.bus.api import Connection
from services.kit.errors import Unavailable
from services.kit.messages import supervise
from services.kit.messages.supervise import Facts
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.changes import Changes
from services.kit.runtime.metrics import families

TakeIdentity = Callable[[Facts], None]
"""Gives the bus the identity that the facts speak of."""


class SupervisorLine:
    """One connection to supervisor.sock; when it is lost the process ends."""

    def __init__(self, connection: Connection, process: str, pid: int, take_identity: TakeIdentity) -> None:
        self._connection = connection
        self._attach = supervise.Attach(process=process, pid=pid)
        self._take_identity = take_identity
        self._facts: Facts | None = None
        self._changed = Changes()

    @property
    def facts(self) -> Facts:
        """What the supervisor knows of the node, as of now."""
        assert self._facts is not None, "facts are there once started is set"
        return self._facts

    async def started(self) -> None:
        """Wait for the first facts."""
        while self._facts is None:
            await self._changed.wait()

    async def changes(self) -> AsyncIterator[Facts]:
        """Yield the facts each time they change."""
        seen = self.facts
        while True:
            while self.facts is seen:
                await self._changed.wait()
            seen = self.facts
            yield seen

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Tell the supervisor which managers there are; it keeps and spreads them."""
        await self._connection.call(supervise.MANAGERS_SEEN, supervise.ManagersReport(managers=managers))

    async def report_node(self, report: supervise.NodeReport) -> None:
        """Tell the supervisor what the swarm wants of this node."""
        await self._connection.call(supervise.NODE_SEEN, report)

    async def report_lock(self, unlock_key: bytes) -> None:
        """Tell the supervisor what this manager's store is about to be sealed under, so that its raft process can start again."""
        await self._connection.call(supervise.LOCKED_UNDER, supervise.LockReport(unlock_key=unlock_key))

    async def report_metrics(self) -> None:
        """Tell the supervisor what this process measures."""
        report = supervise.MetricsReport(process=self._attach.process, families=families())
        await self._connection.call(supervise.METRICS, report)

    async def report_ready(self) -> None:
        """Say that this process serves."""
        await self._connection.call(supervise.READY, supervise.ReadyReport(process=self._attach.process))

    async def follow_orders(self) -> None:
        """Take orders until told to drain; raises Unavailable when the supervisor is gone."""
        async with self._connection.open(supervise.ORDERS, self._attach) as orders:
            async for order in orders:
                if order.drain:
                    return
                if order.facts is not None:
                    self._take(order.facts)
        raise Unavailable("the supervisor ended the stream of orders")

    def _take(self, facts: Facts) -> None:
        if self._facts is None or facts.identity_serial != self._facts.identity_serial:
            self._take_identity(facts)
        self._facts = facts
        self._changed.announce()
