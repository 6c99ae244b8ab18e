"""Ways of choosing a task that a port may ask for."""

from __future__ import annotations

from collections import Counter

import pytest

from services.gateway.core.balance import (
    LEAST_CONN,
    LOCAL_LEEWAY,
    MAGLEV,
    P2C,
    ROUND_ROBIN,
    SLOW_START_LEAST,
    STRIKES_TO_EJECT,
    Dice,
    Pool,
    Rules,
    Target,
)
from services.gateway.core.maglev import build, place_of


def target(name: str, *, weight: float = 1.0, local: bool = False, draining: bool = False) -> Target:
    return Target(name, "127.0.0.1", 8000, weight=weight, local=local, draining=draining)


def pool_of(rules: Rules, *targets: Target) -> Pool:
    pool = Pool(Dice(7))
    pool.replace(list(targets), 0.0, rules)
    return pool


def chosen(pool: Pool, now: float = 0.0, times: int = 4000, *, stay: bool = False) -> Counter[str]:
    """Choose so often; with ``stay`` each connection stays open."""
    found: Counter[str] = Counter()
    for number in range(times):
        one = pool.choose(now, client=f"10.0.{number // 250}.{number % 250}")
        assert one is not None
        one.open += stay
        found[one.task_id] += 1
    return found


@pytest.mark.parametrize("algorithm", [P2C, LEAST_CONN, ROUND_ROBIN, MAGLEV])
def test_equal_tasks_get_equal_shares(algorithm: str) -> None:
    counts = chosen(pool_of(Rules(algorithm), *map(target, "abcd")), stay=algorithm != ROUND_ROBIN)
    assert set(counts) == set("abcd")
    assert max(counts.values()) < 1.25 * min(counts.values())


@pytest.mark.parametrize("algorithm", [P2C, LEAST_CONN, ROUND_ROBIN, MAGLEV])
def test_a_task_of_three_times_the_weight_gets_three_times_the_connections(algorithm: str) -> None:
    counts = chosen(pool_of(Rules(algorithm), target("light"), target("heavy", weight=3.0)), stay=True)
    assert 2.4 < counts["heavy"] / counts["light"] < 3.6


@pytest.mark.parametrize("algorithm", [P2C, ROUND_ROBIN])
def test_weights_count_when_nothing_stays_open(algorithm: str) -> None:
    counts = chosen(pool_of(Rules(algorithm), target("light"), target("heavy", weight=3.0)))
    assert 2.4 < counts["heavy"] / counts["light"] < 3.6


@pytest.mark.parametrize("algorithm", [P2C, LEAST_CONN, ROUND_ROBIN, MAGLEV])
def test_what_was_tried_drains_or_is_ejected_is_not_chosen(algorithm: str) -> None:
    pool = pool_of(Rules(algorithm), *map(target, "abcd"), target("leaving", draining=True))
    for _ in range(STRIKES_TO_EJECT):
        pool.failed(pool.targets["b"], 0.0, timed_out=False)
    found = {one.task_id for n in range(300) if (one := pool.choose(0.0, (pool.targets["a"],), client=f"c{n}"))}
    assert found == {"c", "d"}


def test_the_least_busy_of_all_is_taken() -> None:
    pool = pool_of(Rules(LEAST_CONN), *map(target, "abcdefgh"))
    for one in pool.targets.values():
        one.open = 3
    pool.targets["e"].open = 2
    assert set(chosen(pool, times=50)) == {"e"}


def test_turns_are_taken_evenly() -> None:
    pool = pool_of(Rules(ROUND_ROBIN), *map(target, "abc"))
    names = [pool.choose(0.0).task_id for _ in range(9)]  # type: ignore[union-attr]
    assert names == list("abc") * 3


def test_a_client_comes_back_to_its_task() -> None:
    pool = pool_of(Rules(MAGLEV), *map(target, "abcdefgh"))
    assert len({pool.choose(0.0, client="192.0.2.7") for _ in range(50)}) == 1


def test_gateways_agree_on_a_clients_task_whatever_the_order() -> None:
    one = pool_of(Rules(MAGLEV), *map(target, "abcdefgh"))
    other = pool_of(Rules(MAGLEV), *map(target, "hgfedcba"))
    for number in range(200):
        first, second = one.choose(0.0, client=f"c{number}"), other.choose(0.0, client=f"c{number}")
        assert first is not None
        assert second is not None
        assert first.task_id == second.task_id


def test_few_clients_move_when_a_task_leaves() -> None:
    names = [f"task-{number}" for number in range(10)]
    before, after = build(names, [1.0] * 10), build(names[:-1], [1.0] * 9)
    moved = sum(1 for one, other in zip(before, after, strict=True) if one != 9 and one != other)
    assert moved < 0.1 * len(before)


def test_a_places_table_gives_each_task_its_share() -> None:
    table = build([f"t{number}" for number in range(50)], [1.0] * 50)
    counts = Counter(table)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert 0 <= place_of("2001:db8::1", len(table)) < len(table)


def test_a_new_task_gets_a_growing_share() -> None:
    pool = pool_of(Rules(slow_start_s=10.0), *map(target, "abc"))
    pool.replace([*map(target, "abc"), target("new")], 100.0)
    full = 1000
    shares = [chosen(pool, now)["new"] / full for now in (100.0, 105.0, 109.9)]
    assert shares[0] < 3 * SLOW_START_LEAST
    assert 0.3 < shares[1] < 0.75
    assert 0.8 < shares[2] < 1.2


def test_the_first_tasks_of_a_port_are_not_slowed() -> None:
    pool = pool_of(Rules(slow_start_s=10.0), *map(target, "ab"))
    assert pool.targets["a"].since < -1e9
    assert min(chosen(pool).values()) > 1500


def test_tasks_of_this_node_are_preferred_until_they_are_busier_than_others() -> None:
    pool = pool_of(Rules(local_first=True), target("near", local=True), target("far"), target("farther"))
    assert set(chosen(pool)) == {"near"}
    pool.targets["near"].open = LOCAL_LEEWAY + 1
    assert "near" not in chosen(pool)


def test_without_tasks_of_this_node_the_others_serve() -> None:
    pool = pool_of(Rules(local_first=True), target("near", local=True, draining=True), target("far"), target("farther"))
    assert set(chosen(pool)) == {"far", "farther"}
