"""Elections as the library does not do them: pre-vote, loyalty to a living leader, and each voter counted once (H10, H14).

A member asks for pre-votes when its election timer has run out and starts the election only when a majority would vote for it. A member
that heard of a leader within the shortest timeout refuses both, except in an election that the leader itself asked for. Who has just said
that it would vote for somebody lets that one try first; of two who asked one another, the one with the greater id waits. Votes that split
cost another election timeout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.kit.model.ids import NodeId
from services.raft.core.members import majority
from services.raft.core.messages import PreVoteRequest, VoteRequest

LOYALTY = 0.9
"""Part of the shortest election timeout for which a leader's last word binds."""
COURTESY = 0.4
"""Part of the shortest election timeout for which a member that gave its pre-vote does not run itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a member knows of itself when it judges a request."""

    term: int
    last_index: int
    last_term: int
    leads: bool


@dataclass(slots=True)
class Elections:
    """One member's part in elections."""

    shortest_timeout_s: float
    leader_heard_at: float = float("-inf")
    transfer: bool = False
    """True from the leader's wish to hand over until a leader is heard again: this election needs no pre-vote."""
    _round: int = 0
    _asked_at: float = float("-inf")
    _steps_back_until: float = float("-inf")
    _grants: set[NodeId] = field(default_factory=set)
    _voters: set[NodeId] = field(default_factory=set)

    def hear_leader(self, now: float) -> None:
        """Note a message of the current leader."""
        self.leader_heard_at = now
        self.transfer = False

    def loyal(self, now: float) -> bool:
        """Tell whether a leader was heard so recently that nobody else is wanted."""
        return now - self.leader_heard_at < self.shortest_timeout_s * LOYALTY

    def begin_pre_vote(self, now: float, standing: Standing) -> PreVoteRequest | None:
        """Return the question to ask all members, None while the last one may still be answered."""
        if now - self._asked_at < self.shortest_timeout_s / 2:
            return None
        self._round += 1
        self._asked_at = now
        self._grants = set()
        return PreVoteRequest(
            term=standing.term + 1, last_index=standing.last_index, last_term=standing.last_term, round=self._round
        )

    def count_pre_vote(self, voter: NodeId, round_: int) -> None:
        """Take a grant of the current round."""
        if round_ == self._round:
            self._grants.add(voter)

    def won_pre_vote(self, me: NodeId, members: frozenset[NodeId]) -> bool:
        """Tell whether a majority would vote for this member; asked once, then the next election needs new grants."""
        won = me in members and len((self._grants | {me}) & members) >= majority(len(members))
        if won:
            self._grants = set()
            self._asked_at = float("-inf")
        return won

    def grants_pre_vote(
        self, asker: NodeId, me: NodeId, request: PreVoteRequest, standing: Standing, now: float
    ) -> bool:
        """Tell whether this member would vote for the asker; if so, it lets the asker try first."""
        current = (request.last_term, request.last_index) >= (standing.last_term, standing.last_index)
        granted = current and request.term > standing.term and not standing.leads and not self.loyal(now)
        runs_too = now - self._asked_at < self.shortest_timeout_s * COURTESY
        if granted and (asker < me or not runs_too):
            self._steps_back_until = now + self.shortest_timeout_s * COURTESY
        return granted

    def steps_back(self, now: float) -> bool:
        """Tell whether another member that this one would vote for is trying now."""
        return now < self._steps_back_until

    def hears_candidate(self, request: VoteRequest, standing: Standing, now: float) -> bool:
        """Tell whether a request for a vote may reach the library; it would adopt the term in any case."""
        return request.transfer or not (standing.leads or self.loyal(now))

    def begin_election(self) -> None:
        """Start to count votes anew."""
        self._voters = set()

    def count_vote(self, voter: NodeId) -> bool:
        """Tell whether this voter's vote is its first in this election."""
        first = voter not in self._voters
        self._voters.add(voter)
        return first
