"""The plane's loop: turns end, whatever their timers do."""

from __future__ import annotations

from services.gateway.plane.loop import Loop
from services.kit.runtime.clock import SystemClock


def test_a_timer_that_sets_itself_again_at_once_has_one_go_a_turn() -> None:
    loop = Loop(SystemClock())
    rings: list[float] = []

    def ring() -> None:
        rings.append(loop.now)
        assert len(rings) < 10, "the turn does not end"
        loop.later(0.0, ring)

    loop.later(0.0, ring)
    for _ in range(3):
        loop.turn(0.0)
    assert len(rings) == 3


def test_a_timer_cancelled_by_another_of_the_same_time_does_not_ring() -> None:
    loop = Loop(SystemClock())
    rings: list[str] = []

    def first() -> None:
        second.cancel()

    loop.later(0.0, first)
    second = loop.later(0.0, lambda: rings.append("second"))
    loop.turn(0.0)
    loop.turn(0.0)
    assert rings == []
