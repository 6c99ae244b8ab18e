"""Read index (Raft §6.4): a leader proves that it still leads before it answers what the newest committed state is (hazard H5).

All reads that wait share a round. A round is confirmed when a majority has answered a ping sent after the reads arrived, in the same
term, and an entry of that term is committed. A ping may get lost (a member that was just added, or is not in this term yet, drops it), so
members are asked again until the round is settled; an answer to a later ping counts for all rounds before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.kit.model.ids import NodeId
from services.raft.core.members import majority

Answer = Callable[[int | None], None]
"""Takes the read index, or None when leadership was not confirmed."""


@dataclass(slots=True)
class _Round:
    number: int
    term: int
    started_at: float
    answers: list[Answer]
    confirmed_by: set[NodeId] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading:
    """What a member knows of its own leadership; ``term`` is None when it does not lead."""

    term: int | None
    commit_index: int
    commit_term: int | None


class ReadIndex:
    """The reads that wait, and the rounds under way."""

    def __init__(self, me: NodeId, *, timeout_s: float, again_s: float) -> None:
        self._me = me
        self._timeout_s = timeout_s
        self._again_s = again_s
        self._pinged_at = 0.0
        self._waiting: list[Answer] = []
        self._rounds: dict[int, _Round] = {}
        self._number = 0

    @property
    def busy(self) -> bool:
        """True when a read waits."""
        return bool(self._waiting or self._rounds)

    def ask(self, answer: Answer) -> None:
        """Put a read in line."""
        self._waiting.append(answer)

    def begin(self, leading: Leading, now: float) -> int | None:
        """Start a round for those in line. Returns the number to ping the members with, None when there is nothing to ask now."""
        answers, self._waiting = self._waiting, []
        if leading.term is None:
            _answer_all(answers, None)
            return None
        if answers:
            self._number += 1
            self._rounds[self._number] = _Round(self._number, leading.term, now, answers)
        elif not self._rounds or now - self._pinged_at < self._again_s:
            return None
        self._pinged_at = now
        return self._number

    def confirm(self, member: NodeId, term: int, number: int) -> None:
        """Take a member's answer to a ping, for all rounds that had begun when it was sent."""
        for round_ in self._rounds.values():
            if round_.number <= number and round_.term == term:
                round_.confirmed_by.add(member)

    def settle(self, leading: Leading, members: frozenset[NodeId], now: float) -> None:
        """Answer every round that is confirmed, lost or too old."""
        for round_ in list(self._rounds.values()):
            if leading.term != round_.term or now - round_.started_at > self._timeout_s:
                del self._rounds[round_.number]
                _answer_all(round_.answers, None)
            elif self._confirmed(round_, members) and leading.commit_term == leading.term:
                del self._rounds[round_.number]
                _answer_all(round_.answers, leading.commit_index)

    def _confirmed(self, round_: _Round, members: frozenset[NodeId]) -> bool:
        return len((round_.confirmed_by | {self._me}) & members) >= majority(len(members))


def _answer_all(answers: list[Answer], index: int | None) -> None:
    for answer in answers:
        answer(index)
