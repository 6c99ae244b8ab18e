"""When a node asks for a fresh certificate."""

from __future__ import annotations

import random

import pytest

from services.kit.model.states import Role
from services.supervisor.core.renewal import (
    CALM_FIRST_S,
    CALM_MAX_S,
    EARLIEST,
    LATEST,
    URGENT_FIRST_S,
    URGENT_MAX_S,
    Held,
    Renewal,
)

NOW = 1_800_000_000.0
DAY_S = 86_400.0


def held(life_s: float = 90 * DAY_S, role: Role = Role.WORKER, issued_at: float = NOW) -> Held:
    return Held(role=role, not_before=issued_at - min(3600.0, life_s), not_after=issued_at + life_s)


def holding(life_s: float = 90 * DAY_S, seed: int = 1) -> Renewal:
    renewal = Renewal(random.Random(seed))
    renewal.hold(held(life_s), NOW)
    return renewal


def due_in(renewal: Renewal, now: float = NOW) -> float:
    seconds = renewal.due_in(now)
    assert seconds is not None
    return seconds


@pytest.mark.parametrize("life_s", [20.0, 3600.0, DAY_S, 90 * DAY_S])
def test_a_certificate_is_renewed_at_a_random_moment_of_the_second_half_of_its_life(life_s: float) -> None:
    moments = [due_in(holding(life_s, seed)) for seed in range(200)]
    assert life_s * EARLIEST <= min(moments) < life_s * 0.55
    assert life_s * 0.75 < max(moments) <= life_s * LATEST


def test_without_a_certificate_nothing_is_due() -> None:
    assert Renewal(random.Random(1)).due_in(NOW) is None


def test_another_role_is_fetched_at_once_and_then_rested() -> None:
    renewal = holding()
    renewal.want(Role.WORKER, rotate=False, now=NOW)
    assert due_in(renewal) > DAY_S
    renewal.want(Role.MANAGER, rotate=False, now=NOW)
    assert due_in(renewal) == 0
    renewal.hold(held(role=Role.MANAGER), NOW)
    assert due_in(renewal) > DAY_S


def test_a_fresh_certificate_that_is_still_not_what_was_wanted_counts_as_a_failure() -> None:
    renewal = holding()
    renewal.want(Role.MANAGER, rotate=False, now=NOW)
    renewal.hold(held(), NOW)
    assert URGENT_FIRST_S / 2 <= due_in(renewal) <= URGENT_FIRST_S


def test_the_wish_of_the_swarm_is_followed_once() -> None:
    renewal = holding()
    renewal.want(Role.WORKER, rotate=True, now=NOW)
    assert due_in(renewal) == 0
    renewal.hold(held(), NOW)
    assert due_in(renewal) > DAY_S


def test_pauses_grow_to_a_bound_while_somebody_waits_and_a_new_wish_ends_them() -> None:
    renewal = holding()
    renewal.want(Role.MANAGER, rotate=False, now=NOW)
    pauses = []
    for _ in range(15):
        renewal.failed(NOW)
        pauses.append(due_in(renewal))
    assert pauses[0] <= URGENT_FIRST_S
    assert URGENT_MAX_S / 2 <= pauses[-1] <= URGENT_MAX_S
    renewal.want(Role.MANAGER, rotate=False, now=NOW)
    assert due_in(renewal) > 1, "hearing the same again is nothing new"
    renewal.want(Role.MANAGER, rotate=True, now=NOW)
    assert due_in(renewal) == 0


def test_a_failed_renewal_in_good_time_is_tried_again_calmly_and_more_often_near_the_end() -> None:
    renewal = holding()
    renewal.failed(NOW)
    assert CALM_FIRST_S / 2 <= due_in(renewal) <= CALM_FIRST_S
    for _ in range(30):
        renewal.failed(NOW)
    assert CALM_MAX_S / 2 <= due_in(renewal) <= CALM_MAX_S
    near_the_end = NOW + 90 * DAY_S - 100
    renewal.failed(near_the_end)
    assert due_in(renewal, near_the_end) <= 25


def test_a_node_that_was_off_while_its_certificate_ran_out_asks_at_once() -> None:
    renewal = Renewal(random.Random(1))
    renewal.hold(held(issued_at=NOW - 400 * DAY_S), NOW)
    assert renewal.is_expired(NOW)
    assert due_in(renewal) <= URGENT_FIRST_S
    renewal.hold(held(), NOW)
    assert not renewal.is_expired(NOW)
    assert due_in(renewal) > DAY_S
