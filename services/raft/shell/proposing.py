"""What the leader is asked to do to the log: transactions, changes of the members, and handing leadership over.

Everybody who asked is answered once: with the outcome, or, when leadership is lost, with whether it may have had its effect.
"""

from __future__ import annotations

from collections.abc import Callable

from services.kit.errors import Details, ResourceExhausted, SwarmError, Unavailable
from services.kit.model.ids import NodeId
from services.kit.runtime.log import Log as Report
from services.kit.state.transaction import Transaction, TxResult
from services.raft.core import messages
from services.raft.core.commands import encode_membership, encode_transactions
from services.raft.core.members import ChangeKind, MembershipChange, may_remove
from services.raft.core.queue import IN_FLIGHT_MAX, ProposalQueue
from services.raft.shell.seat import Seat

Done = Callable[[TxResult | SwarmError], None]
Changed = Callable[[SwarmError | None], None]
RETRY_MS = 100


class Proposing:
    """One member's proposals under way."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._report = Report("member")
        self._queue = ProposalQueue()
        self._waiting: dict[tuple[str, int], list[Done]] = {}
        self._change: tuple[MembershipChange, Changed] | None = None
        self._target: tuple[NodeId, float] | None = None
        """Whom leadership is handed to, and until when that is tried; new transactions wait meanwhile."""

    @property
    def can_go_on(self) -> bool:
        """True when something waits that could be appended now."""
        return bool(len(self._queue)) and self._may_append

    def propose(self, transaction: Transaction, done: Done) -> None:
        """Run a transaction; ``done`` is called once, now or in a later turn."""
        if not self._seat.leads:
            done(self._seat.not_leader())
            return
        key = (transaction.client, transaction.sequence)
        waiting = self._waiting.get(key)
        known = self._seat.machine.state.sessions.recall(*key)
        if waiting is not None:
            waiting.append(done)
        elif known is not None:
            done(known)
        elif self._queue.put(transaction):
            self._waiting[key] = [done]
        else:
            done(ResourceExhausted("too many transactions wait to be committed", Details(retry_ms=RETRY_MS)))

    def answer(self, client: str, sequence: int, result: TxResult) -> None:
        """Tell who waits for a transaction how it went."""
        for done in self._waiting.pop((client, sequence), ()):
            done(result)

    def change_members(self, change: MembershipChange, done: Changed) -> None:
        """Change the members by one entry; one change at a time (H3), and only once the leader's own term is committed."""
        latest = self._seat.log.membership.latest
        error = self._refusal(change)
        if error is not None or latest.after(change) == latest:
            done(error)
            return
        self._change = (change, done)
        self._seat.consensus.put(encode_membership(change))

    def applied_change(self, change: MembershipChange) -> None:
        """Tell who waits for a change of the members that it is committed."""
        self._report.info("members changed", kind=change.kind.value, member=change.member.node_id)
        if self._change is not None and self._change[0] == change:
            _, done = self._change
            self._change = None
            done(None)

    def hand_over(self, to: NodeId | None) -> NodeId:
        """Begin to hand leadership over, to the most advanced reachable member by default."""
        seat = self._seat
        if not seat.leads:
            raise seat.not_leader()
        candidates = [peer for peer in seat.others if seat.reachable(peer) and to in (None, peer)]
        if not candidates:
            raise Unavailable("no other member can be reached to take over")
        target = max(candidates, key=seat.consensus.match_index)
        self._target = (target, seat.clock.monotonic() + seat.timing.election_timeout_max_s * 2)
        return target

    def turn(self, now: float) -> None:
        """Append what waits, or go on with handing over."""
        if self._target is not None:
            self._continue_hand_over(*self._target, now)
        if self.can_go_on:
            self._seat.consensus.put(encode_transactions(self._queue.take()))

    def step_down(self) -> None:
        """Answer everybody who waits: what was appended may still be committed, what only queued was surely not."""
        self._target = None
        self._seat.consensus.forget_commands()
        queued = {(transaction.client, transaction.sequence) for transaction in self._queue.clear()}
        waiting, self._waiting = self._waiting, {}
        for key, callbacks in waiting.items():
            for done in callbacks:
                done(self._seat.not_leader(maybe_executed=key not in queued))
        if self._change is not None:
            _, changed = self._change
            self._change = None
            changed(self._seat.not_leader(maybe_executed=True))

    @property
    def _may_append(self) -> bool:
        flying = self._seat.log.entries.last - self._seat.commit_index
        return self._seat.leads and self._target is None and flying < IN_FLIGHT_MAX

    def _continue_hand_over(self, target: NodeId, deadline: float, now: float) -> None:
        seat = self._seat
        if not seat.leads or now > deadline:
            self._target = None
        elif seat.consensus.match_index(target) == seat.log.entries.last:
            seat.outbox.hold(target, messages.TimeoutNow(seat.term))

    def _refusal(self, change: MembershipChange) -> SwarmError | None:
        seat = self._seat
        if not seat.leads:
            return seat.not_leader()
        pending = self._change is not None or seat.log.membership.last_index > seat.commit_index
        if pending or not seat.ready:
            return Unavailable("another change of the members is under way", Details(retry_ms=RETRY_MS))
        if change.kind is not ChangeKind.REMOVE:
            return None
        leaving = change.member.node_id
        if leaving == seat.me:
            return Unavailable("a leader cannot remove itself: hand leadership over first")
        if not may_remove(seat.member_ids, frozenset(filter(seat.reachable, seat.member_ids)), leaving):
            return Unavailable("removing this member would leave the rest without a reachable majority")
        return None
