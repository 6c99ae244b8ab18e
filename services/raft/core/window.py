"""What was sent to a peer already, so that it is not sent again with every acknowledgement.

pysyncobj moves its next index back to what was acknowledged and repeats all that is under way (seven times the traffic, measured).
Links are in order and lose only their end, so what was handed to a link arrives or the link is gone: ``forget`` is called then, when
the link refuses a message, and when the peer asks to go back.
"""

from __future__ import annotations

from services.raft.core.entries import Entries
from services.raft.core.messages import Append


class SentWindow:
    """One peer's, on one link."""

    def __init__(self, heartbeat_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self._term = 0
        self._up_to = 0
        self._commit = 0
        self._at = 0.0

    def forget(self) -> None:
        """Assume that nothing arrived."""
        self._term = 0

    def trim(self, append: Append, log: Entries, now: float) -> Append | None:
        """Return what is new in an append for this peer, None when that is nothing and no heartbeat is due."""
        prev_index, prev_term, entries = append.prev_index, append.prev_term, append.entries
        if self._term == append.term:
            entries = [entry for entry in entries if entry[1] > self._up_to] if entries else entries
            known_term = log.term_at(self._up_to)
            follows = not entries or entries[0][1] == self._up_to + 1
            if follows and known_term is not None:
                prev_index, prev_term = self._up_to, known_term
            else:
                entries = append.entries
            fresh = bool(entries) or append.commit_index != self._commit or now - self._at >= self._heartbeat_s
            if not fresh:
                return None
        self._term = append.term
        self._up_to = entries[-1][1] if entries else prev_index
        self._commit = append.commit_index
        self._at = now
        return Append(
            term=append.term,
            commit_index=append.commit_index,
            prev_index=prev_index,
            prev_term=prev_term,
            entries=entries,
        )
