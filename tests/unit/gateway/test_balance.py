"""Choosing a task, and leaving one alone."""

from __future__ import annotations

from collections import Counter

from services.gateway.core.balance import (
    EJECTION_FIRST_S,
    EJECTION_LONGEST_S,
    PROBE_S,
    STRIKES_TO_EJECT,
    Dice,
    Pool,
    Target,
)


def pool_of(*names: str) -> Pool:
    pool = Pool(Dice(7))
    pool.replace([Target(name, "127.0.0.1", 8000 + number) for number, name in enumerate(names)])
    return pool


def chosen(pool: Pool, now: float, times: int = 200) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(times):
        target = pool.choose(now)
        assert target is not None
        found[target.task_id] += 1
    return found


def eject(pool: Pool, name: str, now: float) -> None:
    for _ in range(STRIKES_TO_EJECT):
        pool.failed(pool.targets[name], now, timed_out=False)


def test_the_less_busy_of_two_is_taken() -> None:
    pool = pool_of("idle", "busy")
    pool.targets["busy"].open = 5
    assert set(chosen(pool, 0.0)) == {"idle"}


def test_open_connections_even_out() -> None:
    pool = pool_of(*"abcdefgh")
    for _ in range(800):
        target = pool.choose(0.0)
        assert target is not None
        target.open += 1
    counts = [target.open for target in pool.targets.values()]
    assert max(counts) - min(counts) <= 6


def test_a_tried_task_is_not_offered_again() -> None:
    pool = pool_of("a", "b")
    a, b = pool.targets.values()
    assert pool.choose(0.0, (a,)) is b
    assert pool.choose(0.0, (a, b)) is None


def test_a_draining_task_is_never_chosen() -> None:
    pool = Pool(Dice(1))
    pool.replace([Target("a", "h", 1, draining=True)])
    assert pool.choose(0.0) is None


def test_three_refusals_in_a_row_eject_and_a_success_in_between_does_not() -> None:
    pool = pool_of("good", "bad", "other")
    bad = pool.targets["bad"]
    for _ in range(10):
        pool.failed(bad, 0.0, timed_out=False)
        pool.failed(bad, 0.0, timed_out=False)
        pool.succeeded(bad)
    assert pool.ejected == 0
    eject(pool, "bad", 0.0)
    assert "bad" not in chosen(pool, 0.0)


def test_one_time_out_ejects() -> None:
    pool = pool_of("a", "b", "c")
    pool.failed(pool.targets["a"], 0.0, timed_out=True)
    assert "a" not in chosen(pool, 0.0)


def test_an_ejected_task_comes_back_through_one_probe_at_a_time() -> None:
    pool = pool_of("a", "b", "c")
    eject(pool, "a", 0.0)
    later = 2 * EJECTION_FIRST_S
    assert chosen(pool, later)["a"] == 1
    assert chosen(pool, later + PROBE_S / 2)["a"] == 0
    assert chosen(pool, later + PROBE_S)["a"] == 1
    pool.succeeded(pool.targets["a"])
    assert chosen(pool, later + PROBE_S)["a"] > 10
    assert pool.ejected == 0


def test_ejections_grow_up_to_a_bound() -> None:
    pool = pool_of("a", "b", "c")
    now, before = 0.0, 0.0
    for _ in range(12):
        eject(pool, "a", now)
        lasts_s = pool.targets["a"].ejected_until - now
        assert lasts_s <= 1.2 * EJECTION_LONGEST_S
        assert lasts_s > before * 0.6
        before, now = lasts_s, pool.targets["a"].ejected_until
    assert before > 0.8 * EJECTION_LONGEST_S


def test_at_most_half_of_the_tasks_are_ejected() -> None:
    pool = pool_of("a", "b", "c", "d", "e")
    for name in "abcde":
        eject(pool, name, 0.0)
    assert pool.ejected == 2
    assert pool_after_ejecting_the_only_one().choose(0.0) is not None


def pool_after_ejecting_the_only_one() -> Pool:
    pool = pool_of("only")
    eject(pool, "only", 0.0)
    return pool


def test_when_all_that_is_left_is_ejected_it_is_used() -> None:
    pool = pool_of("a", "b")
    eject(pool, "a", 0.0)
    b = pool.targets["b"]
    assert pool.choose(0.0, (b,)) is pool.targets["a"]


def test_a_task_that_stays_keeps_its_counts_and_one_that_left_is_returned() -> None:
    pool = pool_of("a", "b")
    a, b = pool.targets.values()
    a.open, b.open = 3, 4
    left = pool.replace([Target("a", a.addr, a.port, draining=True)])
    assert left == [b]
    assert pool.targets["a"] is a
    assert a.draining
    assert a.open == 3


def test_a_task_at_a_new_address_is_a_new_task() -> None:
    pool = pool_of("a")
    old = pool.targets["a"]
    assert pool.replace([Target("a", "127.0.0.2", 9)]) == [old]
    assert pool.targets["a"] is not old
