"""When the explanation of what stays pending is written again: at once when it is new, then less and less often.

A count in it changes with every node that fills up; writing it to every waiting task each time would cost more than placing them.
"""

from __future__ import annotations

from services.dispatcher.core.fleet.group import GroupKey

FIRST_INTERVAL_S = 1.0
LAST_INTERVAL_S = 60.0


class Telling:
    """Times of the explanations, by group, and of the rounds in which all of them are looked at again."""

    def __init__(self) -> None:
        self._next: dict[GroupKey, tuple[float, float]] = {}
        """When a group may be explained again, and how long after that."""
        self._round_at = 0.0
        self._round_asked = False

    def due(self, group: GroupKey) -> float:
        """Return from when on a group may be explained."""
        return self._next.get(group, (0.0, 0.0))[0]

    def told(self, group: GroupKey, now: float) -> None:
        """Note that a group was explained."""
        _, interval = self._next.get(group, (0.0, FIRST_INTERVAL_S))
        self._next[group] = (now + interval, min(2 * interval, LAST_INTERVAL_S))

    def forget(self, group: GroupKey) -> None:
        """Start anew with a group: it got what it waited for."""
        self._next.pop(group, None)

    def ask_round(self) -> bool:
        """Ask for a round, since the fleet has changed; False when one is asked for already."""
        asked, self._round_asked = self._round_asked, True
        return not asked

    def begin_round(self, now: float) -> float | None:
        """Begin the round that was asked for and return None, or return from when on it may begin."""
        if now < self._round_at:
            return self._round_at
        self._round_at, self._round_asked = now + FIRST_INTERVAL_S, False
        return None
