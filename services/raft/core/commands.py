"""Commands: the bodies of log entries. One byte says the kind, the rest is msgpack of exact types.

pysyncobj replicates a command whose first byte it does not know without looking into it; none of ours is one that it unpickles.
"""

from __future__ import annotations

import msgspec

from services.kit.state.transaction import Transaction
from services.raft.core.entries import NO_OP
from services.raft.core.members import MembershipChange

TRANSACTIONS = b"\x10"
MEMBERSHIP = b"\x11"
KINDS = frozenset({NO_OP, TRANSACTIONS, MEMBERSHIP})

Transactions = tuple[Transaction, ...]

_encoder = msgspec.msgpack.Encoder()
_transactions = msgspec.msgpack.Decoder(Transactions)
_membership = msgspec.msgpack.Decoder(MembershipChange)


def encode_transactions(transactions: list[Transaction]) -> bytes:
    """Return the command that runs these transactions in this order."""
    return TRANSACTIONS + _encoder.encode(transactions)


def encode_membership(change: MembershipChange) -> bytes:
    """Return the command that changes the members."""
    return MEMBERSHIP + _encoder.encode(change)


def transactions_of(command: bytes) -> Transactions:
    """Return the transactions of a command; none for another kind."""
    return _transactions.decode(memoryview(command)[1:]) if command[:1] == TRANSACTIONS else ()


def membership_of(command: bytes) -> MembershipChange | None:
    """Return the membership change of a command; None for another kind."""
    return _membership.decode(memoryview(command)[1:]) if command[:1] == MEMBERSHIP else None
