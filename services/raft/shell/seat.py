"""What a member is and knows of itself: the parts that its halves share, and the questions they all ask of them."""

from __future__ import annotations

from collections.abc import Callable

from services.kit.errors import Details, Unavailable
from services.kit.model.ids import NodeId
from services.kit.model.states import Reachability
from services.kit.runtime.clock import Clock
from services.raft.core import messages
from services.raft.core.elections import Elections, Standing
from services.raft.core.machine import Machine
from services.raft.core.members import MemberRecord
from services.raft.core.messages import AnyMessage
from services.raft.core.outbox import Outbox
from services.raft.core.peers import Peers
from services.raft.shell.library import Consensus, Owner, Timing
from services.raft.shell.log import Log

Post = Callable[[NodeId, bytes], bool]
"""Puts bytes on the link to a peer; False when they were not taken."""
SILENT_AFTER_S = 2.0


class Seat:
    """One member's place in the group."""

    def __init__(
        self,
        *,
        record: MemberRecord,
        log: Log,
        machine: Machine,
        timing: Timing,
        clock: Clock,
        post: Post,
        owner: Owner,
    ) -> None:
        self.record = record
        self.me = record.node_id
        self.log = log
        self.machine = machine
        self.timing = timing
        self.clock = clock
        self.peers = Peers(silent_after_s=SILENT_AFTER_S)
        self.elections = Elections(shortest_timeout_s=timing.election_timeout_min_s)
        self.outbox = Outbox(log.entries, self.send_now, heartbeat_s=timing.heartbeat_s)
        self.expelled = False
        """True when another member says that this one was removed, until a leader is heard again: its own log may never say so."""
        self._post = post
        self.consensus = Consensus(me=self.me, members=log.membership.ids, log=log, timing=timing, owner=owner)
        if machine.applied_index:
            self.consensus.begin_at(machine.applied_index)
        else:
            machine.applied_index = log.entries.first
        log.sync()

    @property
    def leads(self) -> bool:
        """True while it believes that it leads."""
        return self.consensus.leads

    @property
    def leader(self) -> NodeId | None:
        """The leader it knows of; none once that one is silent for twice the longest election timeout."""
        if self.leads:
            return self.me
        silent_s = self.clock.monotonic() - self.elections.leader_heard_at
        return self.consensus.leader if silent_s < 2 * self.timing.election_timeout_max_s else None

    @property
    def member_ids(self) -> frozenset[NodeId]:
        """Ids of the members, this one included once it is one."""
        return self.log.membership.ids

    @property
    def others(self) -> list[NodeId]:
        """The other members, in order."""
        return sorted(self.member_ids - {self.me})

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
        if self.expelled or self.me in self.log.membership.latest.removed:
            return "removed"
        if not self.is_member:
            return "joining"
        return "follower" if self.consensus.leader is not None else "candidate"

    @property
    def standing(self) -> Standing:
        """What counts in an election."""
        entries = self.log.entries
        return Standing(term=self.term, last_index=entries.last, last_term=entries.last_term, leads=self.leads)

    def reachable(self, node_id: NodeId) -> bool:
        """Tell whether a member answers; this one does."""
        now = self.clock.monotonic()
        return node_id == self.me or self.peers.reachability(node_id, now) is Reachability.REACHABLE

    def send_now(self, peer: NodeId, message: AnyMessage) -> bool:
        """Send a message that depends on nothing durable."""
        return self._post(peer, messages.encode(message))

    def not_leader(self, *, maybe_executed: bool = False) -> Unavailable:
        """Return the error that names the leader."""
        leader = self.leader if not self.leads else None
        record = self.log.membership.latest.members.get(leader) if leader else None
        message = f"this manager does not lead; {leader} does" if leader else "there is no leader at the moment"
        addr = record.remote_addr if record is not None else ""
        return Unavailable(message, Details(leader=leader or "", leader_addr=addr, maybe_executed=maybe_executed))
