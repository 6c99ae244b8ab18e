"""A transaction takes effect at most once, however late and often it is repeated, and its client learns what it answered while it may ask."""

from __future__ import annotations

import random

import pytest

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.sessions import RESULTS_MAX, UNDER_WAY_MAX, Sessions
from services.kit.state.state import State
from services.kit.state.transaction import ConflictReason, Transaction, TxResult, create

STEPS = 12_000


def write(sequence: int, unanswered_from: int = 0) -> Transaction:
    ops = (create(Node(id=NodeId(f"n{sequence}"))),)
    return Transaction(client="c", sequence=sequence, at=1.0, ops=ops, unanswered_from=unanswered_from)


def test_what_was_answered_is_forgotten_and_never_applied_again() -> None:
    state = State()
    first = write(1)
    state.apply(first)
    state.apply(write(2, unanswered_from=2))
    assert state.sessions.recall("c", 1) is None
    version = state.version
    again, changes = state.apply(first)
    assert (state.version, changes) == (version, ())
    assert again.conflict is not None
    assert again.conflict.reason is ConflictReason.REPEATED


def test_a_late_first_attempt_is_not_taken_for_a_repeated_one() -> None:
    state = State()
    state.apply(write(2, unanswered_from=1))
    result, _ = state.apply(write(1, unanswered_from=1))
    assert result == TxResult(version=2)


def test_a_client_that_says_nothing_of_what_it_heard_has_the_newest_results_kept() -> None:
    state = State()
    for sequence in range(RESULTS_MAX + 5):
        state.apply(Transaction(client="c", sequence=sequence, at=1.0, ops=()))
    assert [state.sessions.is_over("c", sequence) for sequence in (4, 5)] == [True, False]
    assert state.sessions.recall("c", 5) is not None


def test_a_snapshot_remembers_what_is_over() -> None:
    state = State()
    state.apply(write(7, unanswered_from=7))
    loaded = Sessions()
    loaded.load(state.sessions.dump())
    assert loaded.recall("c", 7) == TxResult(version=1)
    assert loaded.is_over("c", 6)
    assert loaded.dump() == state.sessions.dump()


@pytest.mark.parametrize("seed", range(3))
def test_every_transaction_under_way_can_be_repeated_in_any_order(seed: int) -> None:
    """Attempts are applied late, repeatedly and out of order, also after their answer; the client keeps to its window."""
    rng = random.Random(seed)
    state = State()
    under_way: dict[int, Transaction] = {}
    results: dict[int, TxResult] = {}
    newest = 0
    old: list[Transaction] = []
    for _ in range(STEPS):
        oldest = min(under_way, default=newest + 1)
        if newest + 1 - oldest < UNDER_WAY_MAX and rng.random() < 0.5:
            newest += 1
            under_way[newest] = write(newest, min(oldest, newest))
        late = bool(old) and rng.random() < 0.1
        sequence = rng.choice(list(under_way)[-50:]) if under_way else 0
        attempt = rng.choice(old) if late else under_way.get(sequence)
        if attempt is None:
            continue
        known = results.get(attempt.sequence)
        version = state.version
        result, changes = state.apply(attempt)
        if known is None:
            assert (result, len(changes)) == (TxResult(version=version + 1), 1), f"seed {seed}"
            results[attempt.sequence] = result
        else:
            assert (state.version, changes) == (version, ()), f"seed {seed}"
            assert late or result == known, f"seed {seed}"
        if not late and rng.random() < 0.6:
            old.append(under_way.pop(attempt.sequence))
    assert len(state.nodes) == len(results) > 1000
