"""A raft process of one member, in memory: the store conversation over any bus with a real State behind it, for shell tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

from services.kit.bus.api import Bus, Context, Listener
from services.kit.bus.rpc import Table
from services.kit.errors import Details, Unavailable
from services.kit.messages import store
from services.kit.messages.method import Empty
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.changes import Changes
from services.kit.state.state import State
from services.kit.state.transaction import NOBODY, Change, Origin, Transaction


class OneMemberStore:
    """Applies at once what is proposed; ``leads`` may be taken away and given back."""

    def __init__(self, node_id: str = "n1", state: State | None = None) -> None:
        self.state = state or State()
        self.node_id = NodeId(node_id)
        self._leader: ManagerPeer | None = None
        self._first = self.state.version
        self._log: list[tuple[tuple[Change, ...], Origin]] = []
        self._changes = Changes()
        self._listener: Listener | None = None

    async def open(self, bus: Bus, path: str) -> None:
        """Listen on raft.sock."""
        table = Table(trusted=True)
        table.on_call(store.PROPOSE, self._propose)
        table.on_call(store.BARRIER, self._barrier)
        table.on_call(store.STATUS, self._status)
        table.on_feed(store.WATCH, self._watch)
        table.on_feed(store.STATUS_FEED, self._follow)
        self._listener = await bus.listen_local(path, table)

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            await self._listener.close()

    def follow_leader(self, leader: ManagerPeer | None) -> None:
        """Be a follower of this leader, or (None) lead again."""
        self._leader = leader
        self._changes.announce()

    @property
    def status(self) -> store.RaftStatus:
        """What raft says of itself."""
        leads = self._leader is None
        return store.RaftStatus(
            node_id=self.node_id,
            state="leader" if leads else "follower",
            term=1,
            commit_index=self.state.version,
            applied_index=self.state.version,
            version=self.state.version,
            leader=self.node_id if self._leader is None else self._leader.node_id,
            leader_peer=self._leader,
            ready=leads,
        )

    async def _propose(self, context: Context, request: store.Propose) -> store.ProposeReply:
        self._must_lead()
        return store.ProposeReply(outcomes=tuple(self._apply(transaction) for transaction in request.transactions))

    def _apply(self, transaction: Transaction) -> store.Outcome:
        before = self.state.version
        result, changes = self.state.apply(transaction)
        if self.state.version != before:
            self.record(changes, transaction.origin)
        return store.Outcome(result=result)

    def record(self, changes: tuple[Change, ...], origin: Origin = NOBODY) -> None:
        """Tell the watchers of a transaction that was applied to ``state``."""
        self._log.append((changes, origin))
        self._changes.announce()

    async def _barrier(self, context: Context, request: store.Barrier) -> store.BarrierReply:
        self._must_lead()
        return store.BarrierReply(version=self.state.version)

    async def _status(self, context: Context, request: Empty) -> store.RaftStatus:
        return self.status

    async def _follow(self, context: Context, request: Empty) -> AsyncIterator[store.RaftStatus]:
        said = None
        while True:
            status = self.status
            if said is None or (status.state, status.leader) != (said.state, said.leader):
                said = status
                yield status
            else:
                await self._changes.wait()

    async def _watch(self, context: Context, request: store.WatchRequest) -> AsyncIterator[store.WatchItem]:
        seen = request.version
        if seen < self._first or seen == 0:
            seen = self.state.version
            yield store.WatchItem(version=seen, changes=tuple(self.state.full()), reset=True, synced=True)
        while True:
            while seen < self.state.version:
                changes, origin = self._log[seen - self._first]
                seen += 1
                yield store.WatchItem(version=seen, changes=changes, origin=origin)
            await self._changes.wait()

    def _must_lead(self) -> None:
        if self._leader is not None:
            details = Details(leader=self._leader.node_id, leader_addr=self._leader.addr)
            raise Unavailable("another manager leads", details)
