"""What follows a failed attempt."""

from __future__ import annotations

import pytest

from services.gateway.core.forwarding import (
    PAUSE_LONGEST_S,
    Answer,
    AskLeader,
    Attempt,
    AwaitChange,
    Next,
    Origin,
    after,
)
from services.kit.errors import BY_CODE, Details, SwarmError, Unavailable

LEADER_IS_M2 = Unavailable("m2 leads", Details(leader="m2", leader_addr="10.0.0.2:4242"))
NO_LEADER = Unavailable("nobody leads")


def step(
    error: SwarmError, origin: Origin = Origin.USER, *, asked: str = "", may_repeat: bool = False, number: int = 1
) -> Next:
    return after(Attempt(number=number, asked=asked, error=error), origin=origin, may_repeat=may_repeat, me="m1")


def test_a_user_is_taken_to_the_leader() -> None:
    assert step(LEADER_IS_M2) == AskLeader(node_id="m2", addr="10.0.0.2:4242")


def test_a_joining_machine_is_taken_to_the_leader() -> None:
    assert isinstance(step(LEADER_IS_M2, Origin.JOINER), AskLeader)


def test_a_node_is_told_where_the_leader_is() -> None:
    assert step(LEADER_IS_M2, Origin.NODE) == Answer()


def test_a_call_that_was_forwarded_goes_no_further() -> None:
    assert step(LEADER_IS_M2, Origin.MANAGER_GATEWAY) == Answer()


def test_without_a_leader_a_change_is_awaited() -> None:
    assert isinstance(step(NO_LEADER), AwaitChange)


def test_a_leader_that_is_ourselves_but_not_ready_is_awaited() -> None:
    assert isinstance(step(Unavailable("warming up", Details(leader="m1"))), AwaitChange)


def test_a_leader_that_points_elsewhere_is_not_followed_any_further() -> None:
    assert isinstance(step(LEADER_IS_M2, asked="m3"), AwaitChange)


def test_what_may_have_run_is_repeated_only_when_that_does_no_harm() -> None:
    lost = Unavailable("connection lost", Details(maybe_executed=True))
    assert step(lost, asked="m2") == Answer()
    assert isinstance(step(lost, asked="m2", may_repeat=True), AwaitChange)


@pytest.mark.parametrize("kind", [kind for kind in BY_CODE.values() if kind is not Unavailable])
def test_any_other_error_is_the_answer(kind: type[SwarmError]) -> None:
    assert step(kind("no", Details(leader="m2"))) == Answer()


def test_pauses_grow_up_to_a_bound_and_respect_the_peers_wish() -> None:
    def pause_s(number: int, retry_ms: int = 0) -> float:
        found = step(Unavailable("no", Details(retry_ms=retry_ms)), number=number)
        assert isinstance(found, AwaitChange)
        return found.at_most_s

    pauses = [pause_s(number) for number in range(1, 30)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == PAUSE_LONGEST_S
    assert pause_s(1, retry_ms=700) == 0.7
