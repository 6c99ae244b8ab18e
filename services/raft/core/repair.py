"""Mends incoming appends and outgoing refusals, so that nothing acknowledged is ever cut (hazards H1 and H9).

pysyncobj deletes everything behind ``prev_index`` before it adds what came with a message, even entries that it has acknowledged, and
gets them back only with the next message. Here a message is compared with the log first: what is known already is skipped, and the
log is cut only where terms really differ (Raft §5.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from services.raft.core.entries import Entries, Entry
from services.raft.core.messages import Append, as_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """An append as the library may have it."""

    prev_index: int
    prev_term: int
    entries: list[Entry]
    commit_index: int
    verified: int | None = None
    """When set: acknowledge no further than this; the entries behind it are kept but may be anybody's."""


def repair(log: Entries, commit_index: int, append: Append) -> Repaired:
    """Return the append without what the log holds already. ``commit_index`` is the receiver's own."""
    entries = as_entries(append)
    if log.term_at(append.prev_index) != append.prev_term:
        return Repaired(
            prev_index=append.prev_index,
            prev_term=append.prev_term,
            entries=entries,
            commit_index=append.commit_index,
        )
    known = 0
    while known < len(entries) and log.term_at(entries[known].index) == entries[known].term:
        known += 1
    verified = append.prev_index + known
    rest = entries[known:]
    if not rest and verified < log.last:
        return Repaired(
            prev_index=log.last,
            prev_term=log.last_term,
            entries=[],
            commit_index=min(append.commit_index, verified),
            verified=verified,
        )
    assert not rest or verified >= min(commit_index, log.last), (
        f"the leader contradicts entry {verified + 1}, and {commit_index} is committed here"
    )
    verified_term = log.term_at(verified)
    assert verified_term is not None
    return Repaired(prev_index=verified, prev_term=verified_term, entries=rest, commit_index=append.commit_index)


def resume_at(log: Entries, commit_index: int, wanted: int) -> int:
    """Return where the leader should go on after a refusal: right behind what is committed, not one step back at a time."""
    if wanted > log.last:
        return wanted
    return min(wanted, max(commit_index, log.first) + 1)
