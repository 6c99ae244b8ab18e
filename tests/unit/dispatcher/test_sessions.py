"""Sessions: who is registered, how often, how long silence is borne."""

from __future__ import annotations

import random

import pytest

from services.dispatcher.core.sessions import (
    ATTEMPT_GAP_S,
    ATTEMPTS_MAX,
    GRACE,
    GRACE_AFTER_LEADER_CHANGE,
    JITTER,
    Sessions,
)
from services.kit.errors import InvalidArgument, NotFound, Unavailable
from services.kit.model.ids import NodeId, SessionId
from services.kit.model.objects import Node, NodeStatus
from services.kit.model.states import NodeState

N = NodeId("n")
NOTHING = SessionId("")


def sessions(period_s: float = 5.0) -> Sessions:
    return Sessions(random.Random(7), period_s)


def test_a_new_registration_replaces_the_session_and_a_valid_one_is_resumed() -> None:
    made = sessions()
    assert made.register(N, NOTHING, SessionId("a"), 0) == "a"
    assert made.register(N, SessionId("a"), SessionId("b"), 1) == "a"
    assert made.register(N, SessionId("old"), SessionId("b"), 2) == "b"
    with pytest.raises(InvalidArgument, match="session invalid"):
        made.beat(N, SessionId("a"), 3)


def test_too_many_registrations_in_a_row_are_refused_until_there_was_a_pause() -> None:
    made = sessions()
    for attempt in range(ATTEMPTS_MAX):
        made.register(N, NOTHING, SessionId(str(attempt)), attempt * ATTEMPT_GAP_S)
    late = ATTEMPTS_MAX * ATTEMPT_GAP_S
    with pytest.raises(Unavailable, match="too many"):
        made.register(N, NOTHING, SessionId("x"), late)
    assert made.register(N, NOTHING, SessionId("y"), late + ATTEMPT_GAP_S + 1) == "y"


def test_a_beat_needs_a_registration_and_the_right_session() -> None:
    made = sessions()
    with pytest.raises(NotFound):
        made.beat(N, SessionId("a"), 0)
    made.register(N, NOTHING, SessionId("a"), 0)
    for wrong in ("b", ""):
        with pytest.raises(InvalidArgument):
            made.beat(N, SessionId(wrong), 0)
    assert made.beat(N, SessionId("a"), 0) > 0


@pytest.mark.parametrize("period_s", [5.0, 0.5])
def test_each_period_varies_by_a_tenth_around_the_setting(period_s: float) -> None:
    made = sessions(period_s)
    made.register(N, NOTHING, SessionId("a"), 0)
    periods = [made.beat(N, SessionId("a"), number) for number in range(200)]
    assert all(period_s * (1 - JITTER) <= period <= period_s * (1 + JITTER) for period in periods)
    assert len({round(period, 4) for period in periods}) > 100


@pytest.mark.parametrize("period_s", [5.0, 0.5])
def test_silence_is_borne_for_three_periods_and_then_the_session_is_over(period_s: float) -> None:
    made = sessions(period_s)
    made.register(N, NOTHING, SessionId("a"), 0)
    period = made.beat(N, SessionId("a"), 10)
    assert made.expired(10 + GRACE * period - 0.01) == []
    assert made.deadline() == pytest.approx(10 + GRACE * period)
    assert made.expired(10 + GRACE * period) == [N]
    assert made.expired(1e9) == []
    with pytest.raises(InvalidArgument):
        made.beat(N, SessionId("a"), 1e9)
    assert made.register(N, SessionId("a"), SessionId("b"), 1e9) == "b"


def test_a_shorter_period_holds_from_the_next_beat_on() -> None:
    made = sessions(5.0)
    made.register(N, NOTHING, SessionId("a"), 0)
    made.period_s = 0.5
    assert made.expired(10) == [], "it was told to beat within five seconds"
    assert made.beat(N, SessionId("a"), 10) < 1
    assert made.expired(12) == [N]


def test_a_new_leader_waits_twice_as_long_and_not_for_nodes_that_were_down() -> None:
    made = sessions(5.0)
    down = Node(id=NodeId("down"), status=NodeStatus(state=NodeState.DOWN))
    ready = Node(id=N, status=NodeStatus(state=NodeState.READY))
    assert made.begin([down, ready], 0) == [N]
    assert made.expired(GRACE_AFTER_LEADER_CHANGE * 5 - 0.1) == []
    assert made.expired(GRACE_AFTER_LEADER_CHANGE * 5) == [N]


def test_many_nodes_expire_in_their_order_and_beats_put_them_off() -> None:
    made = sessions(1.0)
    for number in range(50):
        made.register(NodeId(f"n{number}"), NOTHING, SessionId(f"s{number}"), number * 0.01)
    for number in range(0, 50, 2):
        made.beat(NodeId(f"n{number}"), SessionId(f"s{number}"), 2.0)
    assert made.expired(3.6) == [NodeId(f"n{number}") for number in range(1, 50, 2)]
    made.forget(NodeId("n0"))
    assert len(made.expired(100)) == 24
