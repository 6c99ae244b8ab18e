"""Transactions that wait to be appended, and group commit: each turn of the loop takes what has queued up as one entry.

Natural batching needs no timer: while one entry is being made durable, the next one gathers. The queue is bounded in bytes.
"""

from __future__ import annotations

from collections import deque

from services.kit.state.transaction import Transaction

QUEUE_BYTES_MAX = 64 << 20
"""Beyond this a proposal is answered ResourceExhausted."""
ENTRY_BYTES_MAX = 1 << 20
"""An entry is closed once it holds this much; a single transaction may be larger, up to its own bound."""
IN_FLIGHT_MAX = 8
"""Entries of this member that are appended and not yet committed; more wait, so that heartbeats never queue behind them."""
_OP_BYTES = 48
"""Roughly what an operation costs besides its object."""


def size_of(transaction: Transaction) -> int:
    """Return about how many bytes a transaction takes."""
    size = len(transaction.client)
    for op in transaction.ops:
        size += _OP_BYTES + len(op.id) + len(op.object)
    return size


class ProposalQueue:
    """First in, first out."""

    def __init__(self, bytes_max: int = QUEUE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._waiting: deque[tuple[Transaction, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def put(self, transaction: Transaction) -> bool:
        """Put a transaction in line; False when the queue is full."""
        size = size_of(transaction)
        if self._waiting and self._bytes + size > self._bytes_max:
            return False
        self._waiting.append((transaction, size))
        self._bytes += size
        return True

    def take(self, bytes_max: int = ENTRY_BYTES_MAX) -> list[Transaction]:
        """Take those for one entry."""
        taken: list[Transaction] = []
        total = 0
        while self._waiting and (not taken or total + self._waiting[0][1] <= bytes_max):
            transaction, size = self._waiting.popleft()
            taken.append(transaction)
            total += size
        self._bytes -= total
        return taken

    def clear(self) -> list[Transaction]:
        """Take all."""
        taken = [transaction for transaction, _ in self._waiting]
        self._waiting.clear()
        self._bytes = 0
        return taken
