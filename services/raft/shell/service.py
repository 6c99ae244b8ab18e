"""What the raft process answers on its local socket: transactions, watches, barriers, status, membership."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial

from services.kit.bus.api import Context
from services.kit.bus.rpc import Table
from services.kit.errors import InvalidArgument, Problem, SwarmError
from services.kit.messages import store
from services.kit.messages.method import Empty
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Reachability
from services.kit.runtime.clock import Clock
from services.kit.runtime.metrics import RAFT_APPLIED, RAFT_TERM, RAFT_TRANSACTION, STORE_BATCH
from services.kit.state.state import FrozenState
from services.kit.state.tables import Table as StoreTable
from services.kit.state.transaction import BYTES_MAX, OPS_MAX, Change, Transaction, TxResult
from services.raft.core.members import MemberRecord
from services.raft.core.queue import size_of
from services.raft.core.ring import WatchRing
from services.raft.shell.driver import Driver
from services.raft.shell.roster import Roster

ITEM_BYTES = 192 << 10
"""A full state is sent in items of about this size."""
ALL_TABLES = frozenset(StoreTable)
SKIPPED_MAX = 1000
"""Steps that a watch of some tables passes over before it says how far it got and lets others go on."""


class StoreService:
    """The handlers."""

    def __init__(self, driver: Driver, roster: Roster, clock: Clock) -> None:
        self._driver = driver
        self._member = driver.member
        self._machine = driver.member.machine
        self._roster = roster
        self._clock = clock

    def register(self, table: Table) -> None:
        """Fill a table."""
        table.on_call(store.PROPOSE, self._propose)
        table.on_feed(store.WATCH, self._watch)
        table.on_call(store.BARRIER, self._barrier)
        table.on_call(store.STATUS, self._status)
        table.on_feed(store.STATUS_FEED, self._follow_status)
        table.on_call(store.JOIN, self._join)
        table.on_call(store.LEAVE, self._leave)
        table.on_call(store.TRANSFER, self._transfer)

    async def _propose(self, _context: Context, request: store.Propose) -> store.ProposeReply:
        begun = self._clock.monotonic()
        answers = _Answers(len(request.transactions))
        for place, transaction in enumerate(request.transactions):
            try:
                check_size(transaction)
            except InvalidArgument as error:
                answers.take(place, error)
            else:
                self._member.proposing.propose(transaction, partial(answers.take, place))
        self._driver.wake()
        outcomes = await answers.all
        took_s = self._clock.monotonic() - begun
        for _ in outcomes:
            RAFT_TRANSACTION.observe(took_s)
        STORE_BATCH.observe(took_s)
        return store.ProposeReply(outcomes=outcomes)

    async def _barrier(self, _context: Context, _request: store.Barrier) -> store.BarrierReply:
        outcome: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        def answer(index: int | None) -> None:
            if not outcome.done():
                outcome.set_result(index)

        self._member.reading.ask(answer)
        self._driver.wake()
        try:
            index = await outcome
        finally:
            self._member.reading.abandon(answer)
        if index is None:
            raise self._member.not_leader()
        await self._driver.until(lambda: self._machine.applied_index >= index)
        return store.BarrierReply(version=self._machine.state.version)

    async def _watch(self, _context: Context, request: store.WatchRequest) -> AsyncIterator[store.WatchItem]:
        machine = self._machine
        tables = frozenset(request.tables) or ALL_TABLES
        cursor = request.version
        resets = machine.resets if cursor else -1
        while True:
            if resets != machine.resets or not machine.ring.resumable(cursor):
                resets = machine.resets
                frozen = machine.state.freeze()
                for item in full_state(frozen, tables):
                    yield item
                cursor = frozen.version
            elif cursor < machine.ring.newest:
                item = next_step(machine.ring, cursor, tables)
                yield item
                cursor = item.version
            else:
                await self._driver.stepped.wait()

    async def _status(self, _context: Context, _request: Empty) -> store.RaftStatus:
        return self.status()

    async def _follow_status(self, _context: Context, _request: Empty) -> AsyncIterator[store.RaftStatus]:
        while True:
            yield self.status()
            await self._driver.status_changed.wait()

    async def _join(self, context: Context, request: store.JoinRequest) -> store.JoinReply:
        record = MemberRecord(
            node_id=NodeId(context.caller.node_id),
            incarnation=request.incarnation,
            raft_addr=request.raft_addr,
            remote_addr=request.remote_addr,
            certificate=request.certificate,
        )
        await self._roster.join(record)
        return store.JoinReply(members=self.status().members)

    async def _leave(self, _context: Context, request: store.LeaveRequest) -> Empty:
        await self._roster.leave(request.node_id)
        return Empty()

    async def _transfer(self, _context: Context, request: store.TransferRequest) -> Empty:
        await self._roster.transfer(request.to)
        return Empty()

    def status(self) -> store.RaftStatus:
        """Return this member's view."""
        member = self._member
        leader = member.leader
        RAFT_TERM.set(member.term)
        RAFT_APPLIED.set(self._machine.applied_index)
        record = member.log.membership.latest.members.get(leader) if leader else None
        return store.RaftStatus(
            node_id=member.me,
            state=member.state_name,
            term=member.term,
            commit_index=member.commit_index,
            applied_index=self._machine.applied_index,
            version=self._machine.state.version,
            leader=leader,
            leader_peer=None if record is None else _peer(record),
            ready=member.ready,
            members=tuple(self._member_status(record, leader) for record in self._roster.members()),
        )

    def _member_status(self, record: MemberRecord, leader: NodeId | None) -> store.Member:
        me = record.node_id == self._member.me
        now = self._clock.monotonic()
        return store.Member(
            node_id=record.node_id,
            raft_addr=record.raft_addr,
            remote_addr=record.remote_addr,
            certificate=record.certificate,
            leader=record.node_id == leader,
            reachability=Reachability.REACHABLE if me else self._member.peers.reachability(record.node_id, now),
        )


class _Answers:
    """Gathers the outcomes of one message's transactions."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._outcomes = [store.Outcome()] * count
        self.all: asyncio.Future[tuple[store.Outcome, ...]] = asyncio.get_running_loop().create_future()
        if not count:
            self.all.set_result(())

    def take(self, place: int, answer: TxResult | SwarmError) -> None:
        """Note how one transaction went."""
        if isinstance(answer, SwarmError):
            outcome = store.Outcome(code=answer.code, message=answer.message, details=answer.details)
        else:
            outcome = store.Outcome(result=answer)
        self._outcomes[place] = outcome
        self._missing -= 1
        if not self._missing and not self.all.done():
            self.all.set_result(tuple(self._outcomes))


def check_size(transaction: Transaction) -> None:
    """Refuse a transaction beyond the written bounds; raises InvalidArgument."""
    size = size_of(transaction)
    problems = []
    if len(transaction.ops) > OPS_MAX:
        problems.append(Problem(path="ops", reason=f"more than {OPS_MAX} operations", value=str(len(transaction.ops))))
    if size > BYTES_MAX:
        problems.append(Problem(path="ops", reason=f"more than {BYTES_MAX} bytes", value=str(size)))
    if problems:
        raise InvalidArgument.of(tuple(problems))


def full_state(frozen: FrozenState, tables: frozenset[StoreTable]) -> Iterator[store.WatchItem]:
    """Yield the items that carry a full state; the first says reset, the last synced.

    They are made one at a time, as the watcher takes them: a large state all at once would keep the member from its turns.
    """
    batch: list[Change] = []
    size = 0
    first = True
    wanted = replace(frozen, tables=tuple(held for held in frozen.tables if held[0] in tables))
    for change in wanted.changes():
        if size >= ITEM_BYTES:
            yield store.WatchItem(version=frozen.version, changes=tuple(batch), reset=first, synced=False)
            batch, size, first = [], 0, False
        batch.append(change)
        size += len(change.object)
    yield store.WatchItem(version=frozen.version, changes=tuple(batch), reset=first, synced=True)


def next_step(ring: WatchRing, cursor: int, tables: frozenset[StoreTable]) -> store.WatchItem:
    """Return the next step behind a version that changed one of the tables, or an empty one that says how far there is none."""
    for _ in range(SKIPPED_MAX):
        cursor, changes, origin = ring.after(cursor)
        if tables == ALL_TABLES:
            return store.WatchItem(version=cursor, changes=changes, origin=origin)
        wanted = tuple(change for change in changes if change.table in tables)
        if wanted:
            return store.WatchItem(version=cursor, changes=wanted, origin=origin)
        if cursor == ring.newest:
            break
    return store.WatchItem(version=cursor)


def _peer(record: MemberRecord) -> ManagerPeer:
    return ManagerPeer(node_id=record.node_id, addr=record.remote_addr, certificate=record.certificate)
