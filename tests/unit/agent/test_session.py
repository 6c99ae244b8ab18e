"""The session's machine: back-off, resumption, hints, gaps, giving up."""

from __future__ import annotations

import random

import pytest

from services.agent.core.session import (
    REFUSALS_MAX,
    REGISTER_TIMEOUT_S,
    STABLE_S,
    Action,
    Beat,
    Beaten,
    Begin,
    Close,
    Connected,
    Due,
    Event,
    Gap,
    GiveUp,
    Lost,
    Open,
    OpenAssignments,
    Registered,
    ReportAll,
    SayReady,
    SessionMachine,
    Stage,
)
from services.kit.model.ids import SessionId

ONE, TWO = SessionId("one"), SessionId("two")


class Talk:
    """A machine with a clock of its own."""

    def __init__(self, seed: int = 1) -> None:
        self.machine = SessionMachine(random.Random(seed))
        self.time = 50.0

    def step(self, *events: Event) -> list[Action]:
        actions: list[Action] = []
        for event in events:
            actions = self.machine.step(self.time, event)
            self.machine.check()
        return actions

    def until_due(self) -> list[Action]:
        deadline = self.machine.deadline()
        assert deadline is not None
        self.time = max(self.time, deadline)
        return self.step(Due())

    def register(self, session: SessionId = ONE) -> list[Action]:
        if self.machine.stage is Stage.IDLE:
            self.step(Begin())
        while self.machine.stage is Stage.WAITING:
            self.until_due()
        return self.step(Connected(), Registered(session))


def test_a_registration_starts_everything_and_says_ready_once() -> None:
    talk = Talk()
    assert talk.step(Begin()) == [Open(SessionId(""))]
    assert talk.step(Connected()) == []
    assert talk.step(Registered(ONE)) == [Beat(ONE), OpenAssignments(ONE), ReportAll(), SayReady()]
    talk.step(Lost("cut"))
    assert talk.register(TWO) == [Beat(TWO), OpenAssignments(TWO), ReportAll()]


def test_the_old_session_is_offered_again_unless_it_is_unknown() -> None:
    talk = Talk()
    talk.register()
    talk.step(Lost("cut"))
    assert talk.until_due() == [Open(ONE)]
    talk.step(Lost("session invalid", session_unknown=True))
    assert talk.until_due() == [Open(SessionId(""))]


def test_heartbeats_follow_the_period() -> None:
    talk = Talk()
    talk.register()
    talk.step(Beaten(5.0))
    assert talk.machine.deadline() == talk.time + 5.0
    assert talk.until_due() == [Beat(ONE)]
    assert talk.machine.deadline() is None, "the next one waits for the answer"


def test_a_registration_that_takes_too_long_is_given_up() -> None:
    talk = Talk()
    talk.step(Begin())
    assert talk.machine.deadline() is None, "the search for a manager has no end"
    talk.step(Connected())
    assert talk.machine.deadline() == talk.time + REGISTER_TIMEOUT_S
    assert talk.until_due() == [Close("session initiation timed out")]


def test_the_back_off_doubles_and_more_up_to_eight_seconds_and_is_spread() -> None:
    longest = [0.0] * 9
    for seed in range(200):
        talk = Talk(seed)
        talk.step(Begin())
        for attempt in range(9):
            talk.step(Lost("no"))
            deadline = talk.machine.deadline()
            assert deadline is not None
            longest[attempt] = max(longest[attempt], deadline - talk.time)
            talk.until_due()
    bounds = [0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 8.0, 8.0, 8.0]
    for bound, seen in zip(bounds, longest, strict=True):
        assert 0.8 * bound < seen <= bound


def test_a_session_that_lasted_starts_the_back_off_anew() -> None:
    for lasted, fresh in ((STABLE_S, True), (STABLE_S - 0.1, False)):
        talk = Talk()
        talk.step(Begin())
        for _ in range(6):
            talk.step(Lost("no"))
            talk.until_due()
        talk.step(Connected(), Registered(ONE))
        talk.time += lasted
        talk.step(Lost("cut"))
        back_off = talk.machine.describe()["back_off_s"]
        assert (back_off == 0.1) is fresh


def test_a_hint_at_the_leader_is_followed_at_once_but_not_twice_in_a_row() -> None:
    talk = Talk()
    talk.step(Begin())
    talk.step(Lost("ask node 2", at_once=True))
    assert talk.machine.deadline() == talk.time
    talk.until_due()
    talk.step(Lost("ask node 1", at_once=True))
    deadline = talk.machine.deadline()
    assert deadline is not None
    assert deadline > talk.time


def test_the_first_gap_is_mended_at_once_and_later_ones_after_a_pause() -> None:
    talk = Talk()
    talk.register()
    assert talk.step(Gap()) == [OpenAssignments(ONE)]
    assert talk.step(Gap()) == []
    assert talk.until_due() == [OpenAssignments(ONE)]


def test_a_node_that_nobody_knows_any_more_gives_up_in_the_end() -> None:
    talk = Talk()
    talk.step(Begin())
    for _ in range(REFUSALS_MAX - 1):
        assert talk.step(Lost("who are you", refused=True)) == [Close("who are you")]
        talk.until_due()
    assert talk.step(Lost("who are you", refused=True)) == [Close("who are you"), GiveUp("who are you")]


def test_one_other_answer_between_refusals_starts_their_count_anew() -> None:
    talk = Talk()
    talk.step(Begin())
    for number in range(REFUSALS_MAX * 3):
        actions = talk.step(Lost("no", refused=number % REFUSALS_MAX != 0))
        assert not any(isinstance(action, GiveUp) for action in actions)
        talk.until_due()


def test_what_the_own_manager_half_says_between_refusals_changes_their_count_in_no_way() -> None:
    talk = Talk()
    talk.step(Begin())
    for number in range(REFUSALS_MAX - 1):
        for by_itself in (False, True):
            actions = talk.step(Lost("no", refused=not by_itself or number % 2 == 0, by_itself=by_itself))
            assert not any(isinstance(action, GiveUp) for action in actions)
            talk.until_due()
    assert GiveUp("no") in talk.step(Lost("no", refused=True))


@pytest.mark.parametrize("event", [Registered(ONE), Beaten(1.0), Gap(), Lost("late"), Connected()])
def test_what_comes_late_changes_nothing(event: Event) -> None:
    talk = Talk()
    talk.register()
    talk.step(Lost("cut"))
    before = talk.machine.deadline()
    assert talk.step(event) == []
    assert (talk.machine.stage, talk.machine.deadline()) == (Stage.WAITING, before)
