"""Where groups failed lately. A row on which a group failed often is chosen only when no other row is left (SwarmKit's rule)."""

from __future__ import annotations

from services.dispatcher.core.fleet.group import GroupKey

FAILURES_MAX = 5
WINDOW_S = 300.0
"""A row counts as failing when the group failed there this often within this time."""
_KEPT_MAX = 64
"""Failures remembered per group and row; more change nothing."""


class Failures:
    """Times of failures by group and row."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: dict[GroupKey, dict[int, list[float]]] = {}

    def add(self, group: GroupKey, row: int, now: float) -> None:
        """Remember a failure."""
        rows = self._times.setdefault(group, {})
        recent = [at for at in rows.get(row, ()) if at > now - WINDOW_S]
        rows[row] = [*recent, now][-_KEPT_MAX:]

    def penalties(self, group: GroupKey, now: float) -> dict[int, int]:
        """Return the number of recent failures of each row that counts as failing."""
        rows = self._times.get(group)
        if rows is None:
            return {}
        recent = {row: sum(at > now - WINDOW_S for at in times) for row, times in rows.items()}
        return {row: count for row, count in recent.items() if count >= FAILURES_MAX}

    def forget_group(self, group: GroupKey) -> None:
        """Drop what is known of a group that is gone."""
        self._times.pop(group, None)

    def forget_row(self, row: int) -> None:
        """Drop what is known of a row whose node is gone."""
        for key in [key for key, rows in self._times.items() if row in rows]:
            del self._times[key][row]
            if not self._times[key]:
                del self._times[key]
