"""The checker of histories: it accepts what an atomic register can do, and finds every kind of lie."""

from __future__ import annotations

import random

import pytest

from tests.support.linearizability import FOREVER, Kind, Operation, check


def read(value: int | None, called: float, returned: float) -> Operation:
    return Operation(key="k", kind=Kind.READ, called=called, returned=returned, value=value)


def write(value: int, called: float, returned: float = FOREVER) -> Operation:
    return Operation(key="k", kind=Kind.WRITE, called=called, returned=returned, value=value)


def cas(expected: int | None, value: int, called: float, returned: float, *, ok: bool = True) -> Operation:
    return Operation(
        key="k", kind=Kind.CAS, called=called, returned=returned, expected=expected, value=value, succeeded=ok
    )


GOOD = {
    "one after another": [write(1, 0, 1), read(1, 2, 3)],
    "a read beside a write may see either": [write(1, 0, 10), read(None, 1, 2), read(1, 3, 4)],
    "a lost write may have happened": [write(1, 0), read(1, 5, 6)],
    "a lost write may never happen": [write(1, 0), read(None, 5, 6), read(None, 7, 8)],
    "a lost write may happen late": [write(1, 0), read(None, 5, 6), read(1, 7, 8)],
    "a failed compare-and-set saw something else": [write(1, 0, 1), cas(2, 3, 2, 3, ok=False), read(1, 4, 5)],
    "two compare-and-sets of which one wins": [cas(None, 1, 0, 9), cas(None, 2, 0, 9, ok=False), read(1, 10, 11)],
}
BAD = {
    "a stale read": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "a lost acknowledged write": [write(1, 0, 1), read(None, 2, 3)],
    "a value from nowhere": [write(1, 0, 1), read(7, 2, 3)],
    "going back in time": [write(1, 0, 10), read(1, 1, 2), read(None, 3, 4)],
    "two winners of one compare-and-set": [cas(None, 1, 0, 9), cas(None, 2, 0, 9)],
    "a write that was applied twice": [write(1, 0, 1), write(2, 2, 3), read(2, 4, 5), read(1, 6, 7)],
    "a compare-and-set that failed although it fitted": [write(1, 0, 1), cas(1, 2, 2, 3, ok=False)],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_what_a_register_can_do_is_accepted(history: list[Operation]) -> None:
    assert check(history) == []


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_a_lie_is_found(history: list[Operation]) -> None:
    (violation,) = check(history)
    assert violation.operations
    assert "no linearization" in str(violation)


@pytest.mark.parametrize("seed", range(20))
def test_histories_of_a_real_register_are_accepted_and_a_twisted_answer_is_not(seed: int) -> None:
    rng = random.Random(seed)
    register: int | None = None
    history: list[Operation] = []
    now = 0.0
    for number in range(60):
        effect = now + rng.random()
        spread = rng.random() * 3
        called, returned = max(0.0, effect - spread), effect + rng.random() * 3
        now = effect
        if rng.random() < 0.5:
            history.append(read(register, called, returned))
        else:
            register = number
            history.append(write(number, called, returned))
    assert check(history) == []
    history.append(read(-1, now + 10, now + 11))
    assert len(check(history)) == 1


def test_keys_are_judged_apart() -> None:
    other = Operation(key="other", kind=Kind.READ, called=2, returned=3, value=9)
    assert [violation.key for violation in check([*GOOD["one after another"], other])] == ["other"]
