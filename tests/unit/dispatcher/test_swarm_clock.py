"""The dispatcher's clock: on from where the leader before had come, never back."""

from __future__ import annotations

from itertools import pairwise

from services.dispatcher.shell.swarm_clock import AHEAD_MAX_S, SLEW, SwarmClock

BEGIN = 1_700_000_000.0


class SetClock:
    """A machine's clock that can be set."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.offset = 0.0

    def monotonic(self) -> float:
        return self.passed

    def wall(self) -> float:
        return BEGIN + self.passed + self.offset


def test_a_clock_that_nothing_is_said_to_tells_the_machine_s_time() -> None:
    machine = SetClock()
    clock = SwarmClock(machine)
    machine.passed = 100.0
    assert (clock.wall(), clock.monotonic()) == (BEGIN + 100.0, 100.0)


def test_a_term_begins_no_earlier_than_what_the_leader_before_has_stamped_and_comes_back_to_the_machine_s_time() -> (
    None
):
    machine = SetClock()
    clock = SwarmClock(machine)
    clock.heard(BEGIN + 22.0)
    clock.begin_term()
    assert clock.wall() == BEGIN + 22.0
    seen = []
    for _ in range(300):
        machine.passed += 1.0
        seen.append(clock.wall())
    assert all(later > earlier for earlier, later in pairwise(seen))
    assert seen[0] - (BEGIN + 22.0) >= 1 - SLEW
    assert seen[-1] == machine.wall()


def test_a_machine_s_clock_that_is_set_back_or_forward_moves_nothing_at_once() -> None:
    machine = SetClock()
    clock = SwarmClock(machine)
    clock.begin_term()
    for step in (-60.0, 120.0):
        before = clock.wall()
        machine.offset += step
        machine.passed += 1.0
        assert 1 - SLEW <= clock.wall() - before <= 1 + SLEW + 1e-6


def test_a_stamp_of_a_clock_that_was_plainly_wrong_is_not_followed() -> None:
    machine = SetClock()
    clock = SwarmClock(machine)
    clock.heard(BEGIN + AHEAD_MAX_S + 1.0)
    assert clock.wall() == BEGIN


def test_who_stands_by_with_a_clock_that_was_set_forward_begins_its_term_with_the_new_time() -> None:
    machine = SetClock()
    clock = SwarmClock(machine)
    machine.offset = 3600.0
    clock.begin_term()
    assert clock.wall() == BEGIN + 3600.0
