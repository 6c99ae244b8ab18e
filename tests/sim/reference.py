"""The committed history as the simulator knows it: each entry as the first member applied it, and the state that follows from them.

Checkers are told of every committed transaction from here, once, in order. What must stay true: this never looks at a member's state,
only at the entries that members apply; a member that applies something else is caught by comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.kit.model.ids import NodeId
from services.kit.state.state import Event, State
from services.kit.state.transaction import Transaction
from services.raft.core.commands import membership_of, transactions_of
from services.raft.core.entries import Entry
from services.raft.core.members import ChangeKind
from tests.sim.promise import Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction that took effect."""

    index: int
    version: int
    transaction: Transaction
    events: tuple[Event, ...]
    state: State
    """After it."""
    at: float
    """Virtual seconds at which the first member applied it."""


class Reference:
    """See the module."""

    def __init__(self, now: Callable[[], float], told: Callable[[Commit], None]) -> None:
        self._now = now
        self._told = told
        self._applying = State()
        self.state = State()
        self.entries: dict[int, bytes] = {}
        self.index = 0
        self.first = 0
        """Index of the first known entry."""
        self.members: set[NodeId] = set()
        self.expelled: dict[NodeId, int] = {}
        """Who was removed from the members and is none since, with the term of that entry."""

    def take(self, who: str, entry: Entry) -> None:
        """A member applies an entry."""
        known = self.entries.get(entry.index)
        if known is not None:
            if known != entry.command:
                raise Broken("committed entries never change", f"{who} applied another command at {entry.index}")
            return
        if entry.index < self.first:
            return
        if self.index and entry.index != self.index + 1:
            raise Broken("committed entries are never lost", f"{who} applied {entry.index} after {self.index}")
        self.entries[entry.index] = entry.command
        self.index = entry.index
        self.first = self.first or entry.index
        self._count_members(entry)
        for transaction in transactions_of(entry.command):
            before = self._applying.version
            result, changes = self._applying.apply(transaction)
            if self._applying.version == before:
                continue
            events = tuple(self.state.absorb(result.version, changes, transaction.at))
            self._told(
                Commit(
                    index=entry.index,
                    version=result.version,
                    transaction=transaction,
                    events=events,
                    state=self.state,
                    at=self._now(),
                )
            )

    def _count_members(self, entry: Entry) -> None:
        change = membership_of(entry.command)
        if change is None:
            return
        node_id = change.member.node_id
        if change.kind is ChangeKind.REMOVE:
            self.members.discard(node_id)
            self.expelled[node_id] = entry.term
        else:
            self.members.add(node_id)
            self.expelled.pop(node_id, None)
