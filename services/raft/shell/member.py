"""One member of raft: the library, the log and the state machine, joined by one loop turn. Knows no sockets and no event loop.

The process's loop calls ``turn`` on every message and on a timer: take messages, append what was proposed, tick the library, apply, answer,
make the log durable, send what depended on it. Tests and the simulator drive it in the same way with a clock of their own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from services.kit.model.ids import NodeId
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log as Report
from services.raft.core import messages
from services.raft.core.commands import membership_of
from services.raft.core.machine import Machine
from services.raft.core.members import ChangeKind, MemberRecord
from services.raft.core.messages import AnyMessage
from services.raft.core.snapshot import Assembly, Head
from services.raft.shell.intake import Intake
from services.raft.shell.library import Timing
from services.raft.shell.log import Log
from services.raft.shell.proposing import Proposing
from services.raft.shell.reading import Reading
from services.raft.shell.seat import SILENT_AFTER_S, Post, Seat


class Member(Seat):
    """See the module. ``proposing``, ``reading`` and ``intake`` are its halves; they share the seat."""

    def __init__(
        self, *, record: MemberRecord, run: str, log: Log, machine: Machine, timing: Timing, clock: Clock, post: Post
    ) -> None:
        self._linked_at: dict[NodeId, float] = {}
        """Peers with a working link, and since when."""
        self.observers: dict[NodeId, MemberRecord] = {}
        """Joiners that get the log and have no vote."""
        self.installed_index = 0
        """Index of the last snapshot that came from a leader."""
        super().__init__(record=record, log=log, machine=machine, timing=timing, clock=clock, post=post, owner=self)
        self.reading = Reading(self)
        self.proposing = Proposing(self)
        self.intake = Intake(self, self.reading, self.observers)
        self._hello = messages.Hello(record.incarnation, run)
        self._report = Report("member")
        self._inbox: list[tuple[NodeId, AnyMessage]] = []
        self._paused: set[NodeId] = set()
        """Peers that need the snapshot, out of the library's sight until the next turn (H13)."""
        self._behind_told: dict[NodeId, float] = {}
        self._known_leader: NodeId | None = None
        self._led = False

    @property
    def busy(self) -> bool:
        """True when the next turn should not wait for the timer."""
        alone = self.leads and len(self.member_ids) == 1 and self.commit_index < self.log.entries.last
        return bool(self._inbox) or alone or self.proposing.can_go_on

    # -- the turn

    def receive(self, sender: NodeId, data: bytes) -> None:
        """Take a message of an authenticated sender; what cannot be read is reported and dropped."""
        try:
            message = messages.decode(data)
        except msgspec.MsgspecError as error:
            self._report.warning("raft message unreadable", peer=sender, reason=str(error))
            return
        self._inbox.append((sender, message))

    def turn(self) -> None:
        """Do everything that can be done now. OSError when the disk refuses: the member must end."""
        now = self.clock.monotonic()
        for peer in sorted(self._paused):
            if self.linked(peer):
                self.consensus.connected(peer)
        self._paused.clear()
        inbox, self._inbox = self._inbox, []
        for sender, message in inbox:
            self.intake.take(sender, message, now)
        self.proposing.turn(now)
        self.consensus.doTick(0)
        self._apply()
        self.log.sync()
        self.outbox.flush()
        self.reading.turn(now)
        self._note_role()

    def _apply(self) -> None:
        committed = int(self.consensus.raftLastApplied)
        for entry in self.log.entries.between(self.machine.applied_index + 1, committed):
            outcomes = self.machine.apply(entry)
            for client, sequence, result in outcomes:
                self.proposing.answer(client, sequence, result)
            change = membership_of(entry.command)
            if change is not None:
                self.proposing.applied_change(change)
                if change.kind is ChangeKind.REMOVE and self.leads:
                    self.intake.on_stranger(change.member.node_id, "it was removed")

    def _note_role(self) -> None:
        if self._led and not self.leads:
            self._report.info("leads no more", term=self.term)
            self.proposing.step_down()
            for node_id in list(self.observers):
                self.drop_observer(node_id)
        if self.leads and not self._led:
            self._report.info("leads", term=self.term)
        self._led = self.leads
        if self.consensus.leader != self._known_leader:
            self._known_leader = self.consensus.leader
            self.reading.lose_leader()
            self._report.info("leader changed", leader=self._known_leader, term=self.term)

    # -- links

    def link_up(self, peer: NodeId) -> None:
        """A fresh link to a peer works."""
        self._linked_at[peer] = self.clock.monotonic()
        self.outbox.forget(peer)
        self.greet(peer)
        self.send_now(peer, messages.Introduction(self.record))
        if peer in self.observers or peer in self.member_ids:
            self.consensus.connected(peer)

    def link_down(self, peer: NodeId) -> None:
        """The link to a peer is gone."""
        self._linked_at.pop(peer, None)
        self.outbox.forget(peer)
        self.consensus.disconnected(peer)
        if peer == self._known_leader:
            self.reading.lose_leader()

    def silent_links(self) -> list[NodeId]:
        """Return peers whose link seems to work and who say nothing."""
        now = self.clock.monotonic()
        return [
            peer
            for peer, since in sorted(self._linked_at.items())
            if now - max(since, self.peers.heard_at(peer)) > SILENT_AFTER_S
        ]

    def greet(self, peer: NodeId) -> None:
        """Say who speaks; repeated, so that silence means something."""
        self.send_now(peer, self._hello)

    # -- joiners and snapshots

    def observe(self, record: MemberRecord) -> None:
        """Send the log to a joiner that has no vote yet."""
        if self.leads and record.node_id not in self.member_ids:
            self.observers[record.node_id] = record
            self.consensus.observe(record.node_id)

    def drop_observer(self, node_id: NodeId) -> None:
        """Stop sending the log to a joiner."""
        if self.observers.pop(node_id, None) is not None:
            self.consensus.drop_observer(node_id)

    def lag(self, node_id: NodeId) -> int:
        """Return how many entries a peer's log is behind the committed ones."""
        return max(0, self.commit_index - self.consensus.match_index(node_id))

    def head(self) -> Head:
        """Return the head of a snapshot of the state as it is now."""
        index = self.machine.applied_index
        term = self.log.entries.term_at(index)
        assert term is not None
        return Head(index, term, self.machine.state.version, self.log.membership.at(index))

    def install(self, assembly: Assembly) -> bool:
        """Take over an installed snapshot's state; False when the log holds all of it already (H11)."""
        head = assembly.head
        assert head is not None
        covered = self.log.entries.term_at(head.index) == head.term
        if covered or head.index <= max(self.commit_index, self.machine.applied_index):
            return False
        self.installed_index = head.index
        self.log.begin_at(head.index, head.term, head.configuration)
        self.machine.begin_at(head.index, assembly.state)
        self.consensus.begin_at(head.index)
        self.consensus.follow_members()
        return True

    # -- what the library asks (``library.Owner``)

    def may_campaign(self) -> bool:
        """Ask for pre-votes, and allow the election once a majority has given them."""
        now = self.clock.monotonic()
        if not self.is_member or (self.elections.steps_back(now) and not self.elections.transfer):
            return False
        if self.elections.transfer or self.elections.won_pre_vote(self.me, self.member_ids):
            self.elections.begin_election()
            return True
        request = self.elections.begin_pre_vote(now, self.standing)
        if request is not None:
            for peer in self.others:
                self.outbox.hold(peer, request)
        return False

    def linked(self, node_id: NodeId) -> bool:
        """Tell whether the link to a peer works."""
        return node_id in self._linked_at

    def now(self) -> float:
        """Return monotonic seconds."""
        return self.clock.monotonic()

    def send(self, node_id: NodeId, message: dict[str, Any]) -> bool:
        """Take a message of the library for a peer."""
        match message["type"]:
            case "append_entries" if "prevLogIdx" in message:
                return self._send_append(node_id, message)
            case "append_entries":
                return self._send_behind(node_id, message["term"])
            case "next_node_idx":
                self.outbox.hold(node_id, self.intake.answer_to(message))
            case "request_vote":
                last_index, last_term = message["last_log_index"], message["last_log_term"]
                transfer = self.elections.transfer
                self.outbox.hold(node_id, messages.VoteRequest(message["term"], last_index, last_term, transfer))
            case "response_vote":
                self.outbox.hold(node_id, messages.Vote(message["term"]))
            case other:
                raise AssertionError(f"the library sent {other}")
        return True

    def _send_append(self, peer: NodeId, message: dict[str, Any]) -> bool:
        assert "transmission" not in message, "an entry larger than a message"
        append = messages.Append(
            message["term"],
            message["commit_index"],
            message["prevLogIdx"],
            message["prevLogTerm"],
            message["entries"],
        )
        return self.outbox.append(peer, append, self.clock.monotonic())

    def _send_behind(self, peer: NodeId, term: int) -> bool:
        """Tell a peer to fetch the snapshot, and leave the library's loop until the next turn (H13)."""
        now = self.clock.monotonic()
        self._paused.add(peer)
        self.consensus.disconnected(peer)
        self.outbox.forget(peer)
        if now - self._behind_told.get(peer, float("-inf")) < self.timing.heartbeat_s * 0.9:
            return True
        self._behind_told[peer] = now
        return self.send_now(peer, messages.Behind(term, self.log.entries.first))
