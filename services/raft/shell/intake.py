"""What comes in from other members: who is listened to, and how messages reach the library without doing harm.

The hazards of the library that lie in messages are met here: H1 (``core.repair``), H4 (terms of acknowledgements), H10 (each voter once), H14
(pre-votes and loyalty). See the README for the list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.kit.model.ids import NodeId
from services.raft.core import messages
from services.raft.core.commands import KINDS
from services.raft.core.members import MemberRecord
from services.raft.core.messages import AnyMessage
from services.raft.core.repair import repair, resume_at
from services.raft.shell.reading import Reading
from services.raft.shell.seat import Seat


class Intake:
    """One member's ears."""

    def __init__(self, seat: Seat, reading: Reading, observers: dict[NodeId, MemberRecord]) -> None:
        self.on_stranger: Callable[[NodeId, str], None] = _ignore
        """Told of a sender that is no member and why, so that it can be refused."""
        self.on_behind: Callable[[NodeId, int], None] = _ignore
        """Told that the leader wants this member to fetch its snapshot."""
        self.on_introduced: Callable[[MemberRecord], None] = _ignore
        """Told where to send answers while this member knows no others."""
        self._seat = seat
        self._reading = reading
        self._observers = observers
        self._verified: int | None = None

    def take(self, sender: NodeId, message: AnyMessage, now: float) -> None:
        """Act on a message of an authenticated sender."""
        seat = self._seat
        if isinstance(message, messages.Hello):
            if seat.peers.greet(sender, message, now):
                seat.outbox.forget(sender)
            return
        seat.peers.hear(sender, now)
        if isinstance(message, messages.Introduction):
            if message.member.node_id == sender and not self._was_removed(sender):
                self.on_introduced(message.member)
            return
        if not self._admits(sender, message, now):
            return
        match message:
            case messages.Append():
                self._append(sender, message, now)
            case messages.Ack():
                self._ack(sender, message)
            case messages.Behind():
                self._behind(sender, message, now)
            case messages.ReadPing() | messages.ReadPong() | messages.ReadAsk() | messages.ReadAnswer():
                self._reading.take(sender, message)
            case _:
                self._election(sender, message, now)

    def answer_to(self, message: dict[str, Any]) -> messages.Ack:
        """Return the acknowledgement that the library wants sent, with its term, and no further than what was verified."""
        seat = self._seat
        next_index = message["next_node_idx"]
        if message["success"] and self._verified is not None:
            next_index = min(next_index, self._verified + 1)
        if message["reset"]:
            next_index = resume_at(seat.log.entries, seat.commit_index, next_index)
        return messages.Ack(seat.term, next_index, message["reset"], message["success"])

    def _admits(self, sender: NodeId, message: AnyMessage, now: float) -> bool:
        """Tell whether a sender counts: a member, a joiner that gets the log, or somebody who may lead without this member knowing it yet.

        Members come and return while this one is away, and only their entries can tell it so. So a stranger may send entries and ask
        for a vote unless it is known to have been removed, or a known leader is heard; what it may not do is acknowledge or vote.
        """
        seat = self._seat
        configuration = seat.log.membership.latest
        if seat.peers.is_same(sender, configuration):
            return True
        if sender in self._observers and isinstance(message, messages.Ack):
            return True
        may_lead = isinstance(message, messages.Append | messages.Behind)
        may_run = isinstance(message, messages.VoteRequest | messages.PreVoteRequest) and seat.is_member
        if (may_lead or may_run) and not self._was_removed(sender):
            unled = not seat.leads and not seat.elections.loyal(now)
            if unled or not seat.is_member or seat.consensus.leader == sender:
                return True
        if seat.is_member:
            known = sender in configuration.members
            self.on_stranger(sender, "it has lost its log" if known else "it is no member")
        return False

    def _was_removed(self, sender: NodeId) -> bool:
        """Tell whether this very run of a member's life is over; somebody who begins anew has another incarnation."""
        gone = self._seat.log.membership.latest.removed.get(sender)
        return gone is not None and self._seat.peers.incarnation(sender) in ("", gone.incarnation)

    def _append(self, sender: NodeId, append: messages.Append, now: float) -> None:
        seat = self._seat
        for command, index, _ in append.entries:
            assert command[:1] in KINDS, f"entry {index} is of an unknown kind: this manager is older than its leader"
        if append.term < seat.term:
            seat.outbox.hold(sender, messages.Ack(seat.term, 0, False, False))
            return
        seat.elections.hear_leader(now)
        seat.expelled = False
        repaired = repair(seat.log.entries, seat.commit_index, append)
        self._verified = repaired.verified
        seat.consensus.receive(
            sender,
            {
                "type": "append_entries",
                "term": append.term,
                "commit_index": repaired.commit_index,
                "entries": repaired.entries,
                "prevLogIdx": repaired.prev_index,
                "prevLogTerm": repaired.prev_term,
            },
        )
        self._verified = None

    def _ack(self, sender: NodeId, ack: messages.Ack) -> None:
        seat = self._seat
        if ack.term > seat.term and sender in seat.member_ids:
            self._adopt_term(sender, ack.term)
        if ack.term != seat.term or not seat.consensus.follows(sender):
            return
        if ack.reset:
            seat.outbox.forget(sender)
        seat.consensus.receive(
            sender,
            {
                "type": "next_node_idx",
                "next_node_idx": ack.next_index,
                "reset": ack.reset,
                "success": ack.success,
            },
        )

    def _adopt_term(self, sender: NodeId, term: int) -> None:
        """Fall in with a member that is in a later term; the library does so only when asked for a vote, which is refused here."""
        message = {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1}
        self._seat.consensus.receive(sender, message)

    def _behind(self, sender: NodeId, behind: messages.Behind, now: float) -> None:
        seat = self._seat
        if behind.term < seat.term:
            return
        seat.elections.hear_leader(now)
        heartbeat = {"type": "append_entries", "term": behind.term, "commit_index": 0, "serialized": None}
        seat.consensus.receive(sender, heartbeat)
        seat.outbox.hold(sender, messages.Ack(seat.term, seat.log.entries.last + 1, True, False))
        if seat.commit_index < behind.snapshot_index:
            self.on_behind(sender, behind.snapshot_index)

    def _election(self, sender: NodeId, message: AnyMessage, now: float) -> None:
        seat = self._seat
        match message:
            case messages.PreVoteRequest():
                if seat.elections.grants_pre_vote(sender, seat.me, message, seat.standing, now):
                    seat.outbox.hold(sender, messages.PreVote(message.round))
            case messages.PreVote():
                seat.elections.count_pre_vote(sender, message.round)
            case messages.VoteRequest():
                if seat.elections.hears_candidate(message, seat.standing, now):
                    self._vote_request(sender, message)
            case messages.Vote():
                if message.term == seat.term and seat.elections.count_vote(sender):
                    seat.consensus.receive(sender, {"type": "response_vote", "term": message.term})
            case messages.TimeoutNow():
                if seat.is_member and message.term == seat.term and sender == seat.consensus.leader:
                    seat.elections.transfer = True
                    seat.consensus.receive(sender, {"type": "timeout_now", "term": message.term})
            case _:
                raise AssertionError(f"nobody takes {message}")

    def _vote_request(self, sender: NodeId, request: messages.VoteRequest) -> None:
        self._seat.consensus.receive(
            sender,
            {
                "type": "request_vote",
                "term": request.term,
                "last_log_index": request.last_index,
                "last_log_term": request.last_term,
            },
        )


def _ignore(*_what: object) -> None:
    """Nobody asked to be told."""
