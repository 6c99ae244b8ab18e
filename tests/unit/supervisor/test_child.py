"""The machine of a child process."""

from __future__ import annotations

import random

import pytest

from services.kit.lifecycle.exit_codes import ExitCode
from services.supervisor.core.child import (
    BACK_OFF_MAX_S,
    STEADY_S,
    STOP_GRACE_S,
    Begin,
    Child,
    ChildEvent,
    ChildState,
    Exited,
    GiveUp,
    Kill,
    Note,
    Served,
    Spawn,
    Stop,
    Terminate,
    Timer,
)


def new_child() -> Child:
    return Child("raft", random.Random(1))


def state_of(child: Child) -> ChildState:
    return child.state


def after(child: Child, *events: tuple[float, ChildEvent]) -> Child:
    for now, event in events:
        child.step(now, event)
    return child


def test_a_child_starts_serves_and_stops() -> None:
    child = new_child()
    assert child.step(0, Begin()) == [Spawn()]
    assert child.step(1, Served()) == []
    assert state_of(child) is ChildState.READY
    assert child.step(2, Stop()) == [Terminate()]
    assert child.step(3, Exited(code=0)) == []
    assert state_of(child) is ChildState.STOPPED
    assert child.restarts == 0


def test_a_steady_child_that_is_killed_starts_again_at_once() -> None:
    child = after(new_child(), (0, Begin()), (1, Served()))
    actions = child.step(STEADY_S + 1, Exited(code=-9))
    assert [type(action) for action in actions] == [Note, Spawn]
    assert isinstance(actions[0], Note)
    assert "signal 9" in actions[0].cause
    assert state_of(child) is ChildState.STARTING


def test_a_child_that_keeps_dying_waits_longer_each_time_up_to_a_bound() -> None:
    child = after(new_child(), (0, Begin()))
    now, waits = 0.0, []
    for _ in range(12):
        child.step(now, Exited(code=1))
        deadline = child.deadline()
        assert deadline is not None
        waits.append(deadline - now)
        assert child.step(deadline - 0.001, Timer()) == []
        assert child.step(deadline, Timer()) == [Spawn()]
        now = deadline
    assert waits[0] <= 0.1
    assert all(wait <= BACK_OFF_MAX_S for wait in waits)
    assert min(waits[-3:]) >= BACK_OFF_MAX_S / 2
    assert child.restarts == 12


def test_a_crash_is_said_to_be_a_broken_invariant_or_unexpected() -> None:
    note = after(new_child(), (0, Begin())).step(1, Exited(code=ExitCode.CRASH))[0]
    assert isinstance(note, Note)
    assert "broken invariant" in note.cause


@pytest.mark.parametrize("code", [code for code in ExitCode if code.final])
def test_a_final_exit_code_is_not_tried_again(code: ExitCode) -> None:
    child = after(new_child(), (0, Begin()))
    (action,) = child.step(1, Exited(code=code))
    assert isinstance(action, GiveUp)
    assert action.code is code
    assert "raft" in action.reason
    assert state_of(child) is ChildState.FAILED
    assert child.deadline() is None


def test_a_child_that_ends_by_itself_without_an_error_is_started_again() -> None:
    child = after(new_child(), (0, Begin()), (1, Served()))
    assert child.step(50, Exited(code=0))[-1] == Spawn()


def test_a_child_that_does_not_stop_is_killed_after_its_grace() -> None:
    child = after(new_child(), (0, Begin()), (1, Stop()))
    assert child.deadline() == 1 + STOP_GRACE_S
    assert child.step(1 + STOP_GRACE_S, Timer()) == [Kill()]
    assert child.step(20, Exited(code=-9)) == []
    assert state_of(child) is ChildState.STOPPED


def test_a_second_wish_to_stop_sends_no_second_signal_unless_it_forces() -> None:
    child = after(new_child(), (0, Begin()), (1, Stop()))
    assert child.step(2, Stop()) == []
    assert child.step(3, Stop(force=True)) == [Kill()]


def test_a_child_told_to_stop_while_it_waits_is_stopped_and_stays_so() -> None:
    child = after(new_child(), (0, Begin()), (1, Exited(code=1)))
    assert state_of(child) is ChildState.BACKING_OFF
    assert child.step(1, Stop()) == []
    assert state_of(child) is ChildState.STOPPED
    assert child.deadline() is None


def test_the_death_of_a_child_that_stops_is_not_a_failure() -> None:
    child = after(new_child(), (0, Begin()), (1, Stop()))
    assert child.step(2, Exited(code=ExitCode.CRASH)) == []
    assert state_of(child) is ChildState.STOPPED


def test_a_late_report_of_serving_changes_nothing() -> None:
    child = after(new_child(), (0, Begin()), (1, Stop()))
    child.step(2, Served())
    assert state_of(child) is ChildState.STOPPING


def test_random_lives_keep_the_invariants() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    rng = random.Random(seed)
    for _ in range(300):
        child, now, running, told_to_stop = Child("ca", random.Random(rng.random())), 0.0, 0, False
        for _ in range(60):
            now += rng.expovariate(0.5)
            choices: list[ChildEvent] = [Served(), Timer(), Stop(force=rng.random() < 0.3)]
            if not told_to_stop:
                choices.append(Begin())
            if running:
                choices.append(Exited(code=rng.choice([0, 1, -9, 64, 69, 3])))
            event = rng.choice(choices)
            told_to_stop = told_to_stop or isinstance(event, Stop)
            running -= isinstance(event, Exited)
            for action in child.step(now, event):
                running += isinstance(action, Spawn)
                assert not (told_to_stop and isinstance(action, Spawn)), "started after a stop"
            assert running in {0, 1}
            assert child.alive == bool(running)
