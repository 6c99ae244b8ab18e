"""The small parts of the scheduler's engine, each against its plain meaning."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher.core.fleet.bits import bits_of, highest, rows_of
from services.dispatcher.core.fleet.dimension import Dimension, least_of, size_class
from services.dispatcher.core.fleet.failures import FAILURES_MAX, WINDOW_S, Failures
from services.dispatcher.core.fleet.fill import fill
from services.dispatcher.core.fleet.levels import Levels
from services.dispatcher.core.fleet.stocks import Stock
from services.kit.model.ids import ServiceId
from services.kit.model.specs import GenericResource

ROWS = st.sets(st.integers(0, 400))
GROUP = (ServiceId("s"), 1)


@given(ROWS)
def test_a_set_of_rows_comes_back_ascending(rows: set[int]) -> None:
    assert rows_of(bits_of(rows)) == sorted(rows)


@given(ROWS, st.integers(1, 400))
def test_the_highest_rows_are_the_highest(rows: set[int], count: int) -> None:
    count = min(count, len(rows))
    assert rows_of(highest(bits_of(rows), count)) == sorted(sorted(rows)[len(rows) - count :])


@given(st.integers(0, 1 << 60))
def test_an_amount_lies_in_its_size_class(amount: int) -> None:
    cls = size_class(amount)
    assert least_of(cls) <= amount < least_of(cls + 1)
    assert size_class(least_of(cls)) == cls


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-20, 200)), max_size=40), st.integers(1, 200))
def test_a_dimension_finds_exactly_the_rows_with_enough(changes: list[tuple[int, int]], amount: int) -> None:
    dimension = Dimension(10)
    for row, free in changes:
        dimension.set(row, free)
        dimension.check()
    assert rows_of(dimension.exactly(amount)) == [row for row in range(10) if dimension.free[row] >= amount]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=40), st.sets(st.integers(0, 9), min_size=1))
def test_the_lowest_level_is_found_among_any_candidates(changes: list[tuple[int, int]], candidates: set[int]) -> None:
    levels = Levels()
    levels.grow(10)
    for row in range(10):
        levels.join(row, row)
    for row, level in changes:
        levels.move(row, level)
        levels.check()
    lowest = min(levels.at[row] for row in candidates)
    expected = bits_of(row for row in candidates if levels.at[row] == lowest)
    assert levels.lowest(bits_of(candidates)) == (lowest, expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(1, 8))
def test_water_fills_to_the_flattest_surface_there_is(have: list[int], wanted: int) -> None:
    shares = fill(have, have, wanted)
    assert sum(shares) == wanted
    ways = (way for way in product(range(wanted + 1), repeat=len(have)) if sum(way) == wanted)

    def roughness(way: tuple[int, ...]) -> int:
        return sum((mine + more) ** 2 for mine, more in zip(have, way, strict=True))

    assert roughness(tuple(shares)) == min(map(roughness, ways))


def test_the_last_drop_goes_to_the_least_tie() -> None:
    assert fill([0, 0, 0], [2, 1, 3], 4) == [1, 2, 1]
    assert fill([1, 1], [5, 4], 1) == [0, 1]


def test_failures_count_for_five_minutes() -> None:
    failures = Failures()
    for _ in range(FAILURES_MAX):
        failures.add(GROUP, 3, 100.0)
    assert failures.penalties(GROUP, 100.0 + WINDOW_S - 1) == {3: FAILURES_MAX}
    assert failures.penalties(GROUP, 100.0 + WINDOW_S) == {}
    failures.forget_row(3)
    assert failures.penalties(GROUP, 100.0) == {}


def test_devices_that_a_task_holds_are_not_dealt_though_the_node_names_others_meanwhile() -> None:
    stock = Stock()
    stock.offer(GenericResource(kind="gpu", names=("a", "b", "c")))
    held = stock.deal("gpu", 2)
    assert held.names == ("a", "b")
    stock.offer(GenericResource(kind="gpu", names=("b", "d")))
    assert stock.free == 1
    assert stock.deal("gpu", 1).names == ("d",)
    stock.claim(held, -1)
    assert stock.free == 1
