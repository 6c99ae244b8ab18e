"""The store as the ca uses it: is this node the leader, a view fresh enough to decide on, a transaction that the view then shows.

Owned by the app; used by its handlers and by the founder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from services.kit.errors import Details, Unavailable
from services.kit.lifecycle.app import Runtime
from services.kit.messages.store import Member, RaftStatus
from services.kit.runtime.tasks import TaskOwner
from services.kit.state.tables import Table
from services.kit.state.transaction import Op
from services.kit.state.view import View
from services.kit.store.client import StoreClient
from services.kit.store.line import local
from services.kit.store.replica import Replica


class Ledger:
    """A store client, a replica and what raft says of leadership."""

    def __init__(self, runtime: Runtime, raft_socket: str) -> None:
        dial = local(runtime.bus, raft_socket)
        self._store = StoreClient(dial=dial, client_id=runtime.ids.new("client"), clock=runtime.clock, actor="ca")
        self._replica = Replica(dial, tables=(Table.CLUSTER, Table.NODE))
        self._status: RaftStatus | None = None
        self._status_changed = asyncio.Event()
        self.news = asyncio.Event()
        """Set when the store or raft's status has changed; cleared by the one who acts on it."""
        self._replica.listen(lambda batch: self.news.set())

    def follow(self, tasks: TaskOwner) -> None:
        """Follow the store and raft's status with tasks of this owner."""
        tasks.spawn("replica", self._replica.run())
        tasks.spawn("status", self._follow_status())

    async def fresh_view(self) -> View:
        """Return a view with everything that was acknowledged before; raises Unavailable{leader} where this node does not lead."""
        status = self._status
        if status is None or status.state != "leader" or not status.ready:
            raise _not_leading(status)
        await self._replica.wait_version(await self._store.barrier())
        return self._replica.state

    @property
    def led_view(self) -> View | None:
        """What is known of the store, perhaps not of the newest moment; None where this node does not lead."""
        status = self._status
        leads = status is not None and status.state == "leader" and status.ready and self._replica.synced
        return self._replica.state if leads else None

    @property
    def members(self) -> tuple[Member, ...]:
        """The managers that vote."""
        return () if self._status is None else self._status.members

    async def commit(self, ops: Iterable[Op], *, timeout_s: float) -> None:
        """Run a transaction and wait until the view shows it; raises TransactionConflict, Unavailable or DeadlineExceeded."""
        result = await self._store.propose(ops, timeout_s=timeout_s)
        await self._replica.wait_version(result.version)

    async def status_change(self, *, at_most_s: float) -> None:
        """Wait until raft's status changes, or this long."""
        self._status_changed.clear()
        try:
            async with asyncio.timeout(at_most_s):
                await self._status_changed.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Release the connections; idempotent."""
        await self._replica.close()
        await self._store.close()

    async def _follow_status(self) -> None:
        async for status in self._store.follow_status():
            self._status = status
            self._status_changed.set()
            self.news.set()


def _not_leading(status: RaftStatus | None) -> Unavailable:
    if status is None:
        return Unavailable("the store cannot be reached")
    if status.state == "leader":
        return Unavailable("the leader is still getting ready")
    peer = status.leader_peer
    details = Details(leader=status.leader or "", leader_addr=peer.addr if peer is not None else "")
    return Unavailable("another manager leads" if status.leader else "there is no leader", details)
