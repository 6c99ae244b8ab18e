"""The replicated state machine: committed entries in, results and steps of the watch out.

Owned by the member; read by the watch and the snapshots. What must stay true: it depends on nothing but the entries, in their order.
"""

from __future__ import annotations

from services.kit.state.state import State
from services.kit.state.transaction import TxResult
from services.raft.core.commands import transactions_of
from services.raft.core.entries import Entry
from services.raft.core.ring import WatchRing

Outcome = tuple[str, int, TxResult]
"""Client, sequence, result."""


class Machine:
    """State, ring of recent steps, and the index up to which entries were applied."""

    def __init__(self) -> None:
        self.state = State()
        self.ring = WatchRing()
        self.applied_index = 0
        self.resets = 0
        """Grows when the state was replaced as a whole; watchers then start anew."""

    def apply(self, entry: Entry) -> list[Outcome]:
        """Apply the next entry and return what its transactions answer."""
        assert entry.index == self.applied_index + 1, f"entry {entry.index} applied after {self.applied_index}"
        self.applied_index = entry.index
        outcomes: list[Outcome] = []
        for transaction in transactions_of(entry.command):
            before = self.state.version
            result, changes = self.state.apply(transaction)
            if self.state.version != before:
                self.ring.append(self.state.version, changes, transaction.origin)
            outcomes.append((transaction.client, transaction.sequence, result))
        return outcomes

    def begin_at(self, index: int, state: State) -> None:
        """Replace everything by an installed snapshot."""
        self.state = state
        self.ring.begin_at(state.version)
        self.applied_index = index
        self.resets += 1
