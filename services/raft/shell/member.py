"""One member of raft: the library, the log and the state machine, joined by one loop turn. Knows no sockets and no event loop.

The process's loop calls ``turn`` on every message and on a timer: take messages, append what was proposed, tick the library, apply, answer,
make the log durable, send what depended on it. Tests and the simulator drive it in the same way with a clock of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from services.kit.errors import Details, ResourceExhausted, SwarmError, Unavailable
from services.kit.model.ids import NodeId
from services.kit.model.states import Reachability
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log as Report
from services.kit.state.transaction import Transaction, TxResult
from services.raft.core import messages
from services.raft.core.commands import KINDS, encode_membership, encode_transactions, membership_of
from services.raft.core.elections import Elections, Standing
from services.raft.core.machine import Machine
from services.raft.core.members import ChangeKind, MemberRecord, MembershipChange, may_remove
from services.raft.core.messages import AnyMessage
from services.raft.core.outbox import Outbox
from services.raft.core.peers import Peers
from services.raft.core.queue import IN_FLIGHT_MAX, ProposalQueue
from services.raft.core.reads import Answer, Leading, ReadIndex
from services.raft.core.repair import repair, resume_at
from services.raft.core.snapshot import Assembly, Head
from services.raft.shell.library import Consensus, Timing
from services.raft.shell.log import Log

Done = Callable[[TxResult | SwarmError], None]
Changed = Callable[[SwarmError | None], None]
Post = Callable[[NodeId, bytes], bool]
READ_TIMEOUT_S = 2.0
SILENT_AFTER_S = 2.0


class Member:
    """See the module. ``post`` puts bytes on the link to a peer and says whether they were taken."""

    def __init__(
        self, *, record: MemberRecord, run: str, log: Log, machine: Machine, timing: Timing, clock: Clock, post: Post
    ) -> None:
        self.record = record
        self.me = record.node_id
        self.log = log
        self.machine = machine
        self.on_stranger: Callable[[NodeId, str], None] = _ignore
        """Told of a sender that is no member and why, so that it can be refused."""
        self.on_behind: Callable[[NodeId, int], None] = _ignore
        """Told that the leader wants this member to fetch its snapshot."""
        self.on_introduced: Callable[[MemberRecord], None] = _ignore
        """Told where to send answers while this member knows no others."""
        self.peers = Peers(silent_after_s=SILENT_AFTER_S)
        self.elections = Elections(shortest_timeout_s=timing.election_timeout_min_s)
        self._hello = messages.Hello(record.incarnation, run)
        self._clock = clock
        self._timing = timing
        self._post = post
        self._report = Report("member")
        self._linked: set[NodeId] = set()
        self._linked_at: dict[NodeId, float] = {}
        self._paused: set[NodeId] = set()
        self._behind_told: dict[NodeId, float] = {}
        self._inbox: list[tuple[NodeId, AnyMessage]] = []
        self._verified: int | None = None
        self._queue = ProposalQueue()
        self._waiting: dict[tuple[str, int], list[Done]] = {}
        self._change: tuple[MembershipChange, Changed] | None = None
        self._handing_over: tuple[NodeId, float] | None = None
        self._observers: dict[NodeId, MemberRecord] = {}
        self._outbox = Outbox(log.entries, self._send_now, heartbeat_s=timing.heartbeat_s)
        self._reads = ReadIndex(self.me, timeout_s=READ_TIMEOUT_S)
        self._asks: dict[int, Answer] = {}
        self._ask = 0
        self.installed_index = 0
        """Index of the last snapshot that came from a leader."""
        self._leader: NodeId | None = None
        self._led = False
        self.consensus = Consensus(me=self.me, members=log.membership.latest.ids, log=log, timing=timing, owner=self)
        if machine.applied_index:
            self.consensus.begin_at(machine.applied_index)
        else:
            machine.applied_index = log.entries.first
        log.sync()

    # -- what it is

    @property
    def leads(self) -> bool:
        """True while it believes that it leads."""
        return self.consensus.leads

    @property
    def leader(self) -> NodeId | None:
        """The leader it knows of; none once that one is silent for the longest election timeout."""
        if self.leads:
            return self.me
        silent_s = self._clock.monotonic() - self.elections.leader_heard_at
        return self.consensus.leader if silent_s < 2 * self._timing.election_timeout_max_s else None

    @property
    def member_ids(self) -> frozenset[NodeId]:
        """Ids of the members, this one included once it is one."""
        return self.log.membership.latest.ids

    @property
    def is_member(self) -> bool:
        """True when it counts and votes."""
        mine = self.log.membership.latest.members.get(self.me)
        return mine is not None and mine.incarnation == self.record.incarnation

    @property
    def term(self) -> int:
        """The current term."""
        return int(self.consensus.raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """How far the log is committed as far as it knows."""
        return int(self.consensus.raftCommitIndex)

    @property
    def ready(self) -> bool:
        """True on a leader that has committed an entry of its own term and applied all before it."""
        committed = self.log.entries.term_at(self.commit_index)
        return self.leads and committed == self.term and self.machine.applied_index == self.commit_index

    @property
    def state_name(self) -> str:
        """follower, candidate, leader, joining or removed."""
        if self.leads:
            return "leader"
        if not self.is_member:
            return "removed" if self.me in self.log.membership.latest.removed else "joining"
        return "follower" if self.consensus.leader is not None else "candidate"

    @property
    def busy(self) -> bool:
        """True when the next turn should not wait for the timer."""
        alone = self.leads and len(self.member_ids) == 1 and self.commit_index < self.log.entries.last
        return bool(self._inbox) or alone or bool(len(self._queue) and self._may_pump())

    # -- what comes from outside

    def receive(self, sender: NodeId, data: bytes) -> None:
        """Take a message of an authenticated sender; what cannot be read is reported and dropped."""
        try:
            message = messages.decode(data)
        except msgspec.MsgspecError as error:
            self._report.warning("raft message unreadable", peer=sender, reason=str(error))
            return
        self._inbox.append((sender, message))

    def link_up(self, peer: NodeId) -> None:
        """A fresh link to a peer works."""
        self._linked.add(peer)
        self._linked_at[peer] = self._clock.monotonic()
        self._outbox.forget(peer)
        self.greet(peer)
        observer = peer in self._observers
        if observer:
            self._send_now(peer, messages.Introduction(self.record))
        if observer or peer in self.member_ids:
            self.consensus.connected(peer)

    def link_down(self, peer: NodeId) -> None:
        """The link to a peer is gone."""
        self._linked.discard(peer)
        self._outbox.forget(peer)
        self.consensus.disconnected(peer)

    def silent_links(self) -> list[NodeId]:
        """Return peers whose link seems to work and who say nothing."""
        now = self._clock.monotonic()
        return [
            peer
            for peer in sorted(self._linked)
            if now - max(self._linked_at[peer], self.peers.heard_at(peer)) > SILENT_AFTER_S
        ]

    def greet(self, peer: NodeId) -> None:
        """Say who speaks; repeated, so that silence means something."""
        self._send_now(peer, self._hello)

    def propose(self, transaction: Transaction, done: Done) -> None:
        """Run a transaction; ``done`` is called once, now or in a later turn."""
        if not self.leads:
            done(self.not_leader())
            return
        key = (transaction.client, transaction.sequence)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(done)
            return
        known = self.machine.state.sessions.recall(*key)
        if known is not None:
            done(known)
        elif self._queue.put(transaction):
            self._waiting[key] = [done]
        else:
            done(ResourceExhausted("too many transactions wait to be committed", Details(retry_ms=100)))

    def read_index(self, answer: Answer) -> None:
        """Find an index such that a state applied up to it is linearizable; None when no leader confirms one."""
        if self.leads:
            self._reads.ask(answer)
        elif self.leader is not None:
            self._ask += 1
            self._asks[self._ask] = answer
            if not self._send_now(self.leader, messages.ReadAsk(self._ask)):
                self._answer_ask(self._ask, None)
        else:
            answer(None)

    def abandon_read(self, answer: Answer) -> None:
        """Forget a read that nobody waits for any more."""
        self._asks = {ask: known for ask, known in self._asks.items() if known is not answer}

    def change_members(self, change: MembershipChange, done: Changed) -> None:
        """Change the members by one entry; one change at a time (H3), and only once the leader's own term is committed."""
        error = self._may_change(change)
        if error is not None:
            done(error)
        elif self.log.membership.latest.after(change) == self.log.membership.latest:
            done(None)
        else:
            self._change = (change, done)
            self.consensus.put(encode_membership(change))

    def observe(self, record: MemberRecord) -> None:
        """Send the log to a joiner that has no vote yet."""
        if self.leads and record.node_id not in self.member_ids:
            self._observers[record.node_id] = record
            self.consensus.observe(record.node_id)
            if record.node_id in self._linked:
                self._send_now(record.node_id, messages.Introduction(self.record))

    def drop_observer(self, node_id: NodeId) -> None:
        """Stop sending the log to a joiner."""
        if self._observers.pop(node_id, None) is not None:
            self.consensus.drop_observer(node_id)

    @property
    def observers(self) -> dict[NodeId, MemberRecord]:
        """Joiners that get the log and have no vote."""
        return self._observers

    def lag(self, node_id: NodeId) -> int:
        """Return how many entries a peer's log is behind the committed ones."""
        return max(0, self.commit_index - self.consensus.match_index(node_id))

    def hand_over(self, to: NodeId | None) -> NodeId:
        """Begin to hand leadership over, to the most advanced reachable member by default; new transactions wait meanwhile."""
        if not self.leads:
            raise self.not_leader()
        now = self._clock.monotonic()
        others = [
            node_id
            for node_id in sorted(self.member_ids - {self.me})
            if self.peers.reachability(node_id, now) is Reachability.REACHABLE and to in (None, node_id)
        ]
        if not others:
            raise Unavailable("no other member can be reached to take over")
        target = max(others, key=self.consensus.match_index)
        self._handing_over = (target, now + self._timing.election_timeout_max_s * 2)
        return target

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

    def head(self) -> Head:
        """Return the head of a snapshot of the state as it is now."""
        index = self.machine.applied_index
        term = self.log.entries.term_at(index)
        assert term is not None
        return Head(index, term, self.machine.state.version, self.log.membership.at(index))

    def not_leader(self, *, maybe_executed: bool = False) -> Unavailable:
        """Return the error that names the leader."""
        leader = self.leader if not self.leads else None
        record = self.log.membership.latest.members.get(leader) if leader else None
        message = f"this manager does not lead; {leader} does" if leader else "there is no leader at the moment"
        addr = record.remote_addr if record is not None else ""
        return Unavailable(message, Details(leader=leader or "", leader_addr=addr, maybe_executed=maybe_executed))

    # -- the turn

    def turn(self) -> None:
        """Do everything that can be done now. OSError when the disk refuses: the member must end."""
        now = self._clock.monotonic()
        for peer in sorted(self._paused & self._linked):
            self.consensus.connected(peer)
        self._paused.clear()
        inbox, self._inbox = self._inbox, []
        for sender, message in inbox:
            self._take(sender, message, now)
        self._pump(now)
        self.consensus.doTick(0)
        self._apply()
        self.log.sync()
        self._outbox.flush()
        self._turn_reads(now)
        self._note_role()

    def may_campaign(self) -> bool:
        """Ask for pre-votes, and allow the election once a majority has given them (the library's question)."""
        now = self._clock.monotonic()
        if not self.is_member:
            return False
        if self.elections.transfer or self.elections.won_pre_vote(self.me, self.member_ids):
            self.elections.begin_election()
            return True
        request = self.elections.begin_pre_vote(now, self._standing())
        if request is not None:
            for peer in sorted(self.member_ids - {self.me}):
                self._outbox.hold(peer, request)
        return False

    def linked(self, node_id: NodeId) -> bool:
        """Tell whether the link to a peer works (the library's question)."""
        return node_id in self._linked

    def send(self, node_id: NodeId, message: dict[str, Any]) -> bool:
        """Take a message of the library for a peer."""
        match message["type"]:
            case "append_entries" if "prevLogIdx" in message:
                return self._send_append(node_id, message)
            case "append_entries":
                return self._send_behind(node_id, message["term"])
            case "next_node_idx":
                self._outbox.hold(node_id, self._ack(message))
            case "request_vote":
                transfer = self.elections.transfer
                request = messages.VoteRequest(
                    message["term"], message["last_log_index"], message["last_log_term"], transfer
                )
                self._outbox.hold(node_id, request)
            case "response_vote":
                self._outbox.hold(node_id, messages.Vote(message["term"]))
            case other:
                raise AssertionError(f"the library sent {other}")
        return True

    # -- outgoing

    def _send_now(self, peer: NodeId, message: AnyMessage) -> bool:
        return self._post(peer, messages.encode(message))

    def _send_append(self, peer: NodeId, message: dict[str, Any]) -> bool:
        assert "transmission" not in message, "an entry larger than a message"
        append = messages.Append(
            message["term"],
            message["commit_index"],
            message["prevLogIdx"],
            message["prevLogTerm"],
            message["entries"],
        )
        return self._outbox.append(peer, append, self._clock.monotonic())

    def _send_behind(self, peer: NodeId, term: int) -> bool:
        """Tell a peer to fetch the snapshot, and leave the library's loop until the next turn (H13)."""
        now = self._clock.monotonic()
        self._paused.add(peer)
        self.consensus.disconnected(peer)
        self._outbox.forget(peer)
        if now - self._behind_told.get(peer, float("-inf")) < self._timing.heartbeat_s * 0.9:
            return True
        self._behind_told[peer] = now
        return self._send_now(peer, messages.Behind(term, self.log.entries.first))

    def _ack(self, message: dict[str, Any]) -> messages.Ack:
        next_index = message["next_node_idx"]
        if message["success"] and self._verified is not None:
            next_index = min(next_index, self._verified + 1)
        if message["reset"]:
            next_index = resume_at(self.log.entries, self.commit_index, next_index)
        return messages.Ack(self.term, next_index, message["reset"], message["success"])

    # -- incoming

    def _take(self, sender: NodeId, message: AnyMessage, now: float) -> None:
        if isinstance(message, messages.Hello):
            if self.peers.greet(sender, message, now):
                self._outbox.forget(sender)
        else:
            self.peers.hear(sender, now)
        if not self._admits(sender, message):
            return
        match message:
            case messages.Append():
                self._take_append(sender, message, now)
            case messages.Ack():
                self._take_ack(sender, message)
            case messages.Behind():
                self._take_behind(sender, message, now)
            case messages.VoteRequest() | messages.Vote() | messages.TimeoutNow():
                self._take_vote(sender, message, now)
            case messages.PreVoteRequest():
                if self.elections.grants_pre_vote(message, self._standing(), now):
                    self._outbox.hold(sender, messages.PreVote(message.round))
            case messages.PreVote():
                self.elections.count_pre_vote(sender, message.round)
            case messages.ReadPing() | messages.ReadPong() | messages.ReadAsk() | messages.ReadAnswer():
                self._take_read(sender, message)
            case messages.Introduction():
                self.on_introduced(message.member)
            case messages.Hello():
                pass

    def _admits(self, sender: NodeId, message: AnyMessage) -> bool:
        """Tell whether a sender counts: a member, a joiner that gets the log, or anybody who leads while this member has no vote."""
        configuration = self.log.membership.latest
        if self.peers.is_same(sender, configuration):
            return True
        if isinstance(message, messages.Hello):
            return False
        if sender in self._observers and isinstance(message, messages.Ack):
            return True
        if not self.is_member:
            return isinstance(message, messages.Append | messages.Behind | messages.Introduction)
        known = sender in configuration.members
        self.on_stranger(sender, "it has lost its log" if known else "it is no member")
        return False

    def _take_append(self, sender: NodeId, append: messages.Append, now: float) -> None:
        for command, index, _ in append.entries:
            assert command[:1] in KINDS, f"entry {index} is of an unknown kind: this manager is older than its leader"
        message: dict[str, Any] = {"type": "append_entries", "term": append.term}
        if append.term < self.term:
            self._outbox.hold(sender, messages.Ack(self.term, 0, False, False))
            return
        self.elections.hear_leader(now)
        repaired = repair(self.log.entries, self.commit_index, append)
        message["commit_index"] = repaired.commit_index
        message["entries"] = repaired.entries
        message["prevLogIdx"] = repaired.prev_index
        message["prevLogTerm"] = repaired.prev_term
        self._verified = repaired.verified
        self.consensus.receive(sender, message)
        self._verified = None

    def _take_ack(self, sender: NodeId, ack: messages.Ack) -> None:
        if ack.term > self.term and sender in self.member_ids:
            self._adopt_term(sender, ack.term)
        if ack.term != self.term or not self.consensus.follows(sender):
            return
        if ack.reset:
            self._outbox.forget(sender)
        message = {
            "type": "next_node_idx",
            "next_node_idx": ack.next_index,
            "reset": ack.reset,
            "success": ack.success,
        }
        self.consensus.receive(sender, message)

    def _adopt_term(self, sender: NodeId, term: int) -> None:
        """Fall in with a member that is in a later term; the library does so only when asked for a vote, which is refused here."""
        message = {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1}
        self.consensus.receive(sender, message)

    def _take_behind(self, sender: NodeId, behind: messages.Behind, now: float) -> None:
        if behind.term < self.term:
            return
        self.elections.hear_leader(now)
        message = {"type": "append_entries", "term": behind.term, "commit_index": 0, "serialized": None}
        self.consensus.receive(sender, message)
        self._outbox.hold(sender, messages.Ack(self.term, self.log.entries.last + 1, True, False))
        if self.commit_index < behind.snapshot_index:
            self.on_behind(sender, behind.snapshot_index)

    def _take_vote(
        self, sender: NodeId, message: messages.VoteRequest | messages.Vote | messages.TimeoutNow, now: float
    ) -> None:
        match message:
            case messages.VoteRequest():
                if self.elections.hears_candidate(message, self._standing(), now):
                    self.consensus.receive(
                        sender,
                        {
                            "type": "request_vote",
                            "term": message.term,
                            "last_log_index": message.last_index,
                            "last_log_term": message.last_term,
                        },
                    )
            case messages.Vote():
                if message.term == self.term and self.elections.count_vote(sender):
                    self.consensus.receive(sender, {"type": "response_vote", "term": message.term})
            case messages.TimeoutNow():
                if self.is_member and message.term == self.term and sender == self.consensus.leader:
                    self.elections.transfer = True
                    self.consensus.receive(sender, {"type": "timeout_now", "term": message.term})

    def _take_read(
        self,
        sender: NodeId,
        message: messages.ReadPing | messages.ReadPong | messages.ReadAsk | messages.ReadAnswer,
    ) -> None:
        match message:
            case messages.ReadPing():
                if message.term == self.term and not self.leads:
                    self._outbox.hold(sender, messages.ReadPong(message.term, message.round))
            case messages.ReadPong():
                self._reads.confirm(sender, message.term, message.round)
            case messages.ReadAsk():
                if not self.leads:
                    self._send_now(sender, messages.ReadAnswer(message.ask, 0))
                    return

                def answer(index: int | None) -> None:
                    self._send_now(sender, messages.ReadAnswer(message.ask, index or 0))

                self._reads.ask(answer)
            case messages.ReadAnswer():
                self._answer_ask(message.ask, message.index or None)

    def _answer_ask(self, ask: int, index: int | None) -> None:
        answer = self._asks.pop(ask, None)
        if answer is not None:
            answer(index)

    # -- proposing and applying

    def _may_pump(self) -> bool:
        flying = self.log.entries.last - self.commit_index
        return self.leads and self._handing_over is None and flying < IN_FLIGHT_MAX

    def _pump(self, now: float) -> None:
        if self._handing_over is not None:
            self._continue_hand_over(*self._handing_over, now)
        if len(self._queue) and self._may_pump():
            self.consensus.put(encode_transactions(self._queue.take()))

    def _continue_hand_over(self, target: NodeId, deadline: float, now: float) -> None:
        if not self.leads or now > deadline:
            self._handing_over = None
        elif self.consensus.match_index(target) == self.log.entries.last:
            self._outbox.hold(target, messages.TimeoutNow(self.term))

    def _apply(self) -> None:
        machine = self.machine
        committed = int(self.consensus.raftLastApplied)
        for entry in self.log.entries.between(machine.applied_index + 1, committed):
            outcomes = machine.apply(entry)
            for client, sequence, result in outcomes:
                for done in self._waiting.pop((client, sequence), ()):
                    done(result)
            if not outcomes:
                self._applied_change(membership_of(entry.command))

    def _applied_change(self, change: MembershipChange | None) -> None:
        if change is None:
            return
        self._report.info("members changed", kind=change.kind.value, member=change.member.node_id)
        if change.kind is ChangeKind.REMOVE and self.leads:
            self.on_stranger(change.member.node_id, "it was removed")
        if self._change is not None and self._change[0] == change:
            _, done = self._change
            self._change = None
            done(None)

    def _may_change(self, change: MembershipChange) -> SwarmError | None:
        if not self.leads:
            return self.not_leader()
        pending = self._change is not None or self.log.membership.last_index > self.commit_index
        if pending or not self.ready:
            return Unavailable("another change of the members is under way", Details(retry_ms=100))
        if change.kind is ChangeKind.REMOVE:
            return self._may_remove(change.member.node_id)
        return None

    def _may_remove(self, leaving: NodeId) -> SwarmError | None:
        if leaving == self.me:
            return Unavailable("a leader cannot remove itself: hand leadership over first")
        now = self._clock.monotonic()
        reachable = frozenset(
            node_id
            for node_id in self.member_ids
            if node_id == self.me or self.peers.reachability(node_id, now) is Reachability.REACHABLE
        )
        if not may_remove(self.member_ids, reachable, leaving):
            return Unavailable("removing this member would leave the rest without a reachable majority")
        return None

    # -- reads and roles

    def _standing(self) -> Standing:
        return Standing(
            term=self.term,
            last_index=self.log.entries.last,
            last_term=self.log.entries.last_term,
            leads=self.leads,
        )

    def _turn_reads(self, now: float) -> None:
        if not self._reads.busy:
            return
        term = self.term if self.leads else None
        commit_term = self.log.entries.term_at(self.commit_index)
        leading = Leading(term=term, commit_index=self.commit_index, commit_term=commit_term)
        number = self._reads.begin(leading, now)
        if number is not None:
            for peer in sorted(self.member_ids - {self.me}):
                self._send_now(peer, messages.ReadPing(self.term, number))
        self._reads.settle(leading, self.member_ids, now)

    def _note_role(self) -> None:
        if self._led and not self.leads:
            self._step_down()
        if self.leads and not self._led:
            self._report.info("leads", term=self.term)
        self._led = self.leads
        leader = self.consensus.leader
        if leader != self._leader:
            self._leader = leader
            for ask in list(self._asks):
                self._answer_ask(ask, None)
            self._report.info("leader changed", leader=leader, term=self.term)

    def _step_down(self) -> None:
        """Answer everybody who waits: what was appended may still be committed, what only queued was surely not."""
        self._report.info("leads no more", term=self.term)
        self._handing_over = None
        self.consensus.forget_commands()
        for node_id in list(self._observers):
            self.drop_observer(node_id)
        queued = {(transaction.client, transaction.sequence) for transaction in self._queue.clear()}
        waiting, self._waiting = self._waiting, {}
        for key, callbacks in waiting.items():
            for done in callbacks:
                done(self.not_leader(maybe_executed=key not in queued))
        if self._change is not None:
            _, changed = self._change
            self._change = None
            changed(self.not_leader(maybe_executed=True))


def _ignore(*_what: object) -> None:
    """Nobody asked to be told."""
