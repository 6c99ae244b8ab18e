"""When the explanation of what stays pending is written again: at once when it is new, then less and less often.

A count in it changes with every node that fills up; writing it to every waiting task each time would cost more than placing them.
"""

from __future__ import annotations

from services.dispatcher.core.fleet.group import GroupKey

FIRST_INTERVAL_S = 1.0
LAST_INTERVAL_S = 60.0


class Telling:
    """Times of the explanations, by group."""

    def __init__(self) -> None:
        self._next: dict[GroupKey, tuple[float, float]] = {}
        """When a group may be explained again, and how long after that."""

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
