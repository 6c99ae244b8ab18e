"""What the dispatcher must still be told: the newest status of each task, in batches, again until it was acknowledged.

Pure. One batch is under way at a time. An idle reporter sends at once; after a batch the next waits ``COALESCE_S``, so that a burst
of changes becomes few messages.
"""

from __future__ import annotations

from services.kit.messages.session import StatusUpdate
from services.kit.model.ids import TaskId
from services.kit.model.objects import TaskStatus

COALESCE_S = 0.03
BATCH_MAX = 500
"""Statuses per message: about 200 bytes each, far below a frame's bound."""


class Reports:
    """Statuses on their way to the dispatcher."""

    def __init__(self) -> None:
        self._waiting: dict[TaskId, TaskStatus] = {}
        self._in_flight: dict[TaskId, TaskStatus] = {}
        self._next_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def put(self, task_id: TaskId, status: TaskStatus) -> None:
        """Note a status; it replaces an older one of the same task, and is dropped when it is not newer."""
        known = self._waiting.get(task_id) or self._in_flight.get(task_id)
        if known is not None and (status == known or status.state < known.state):
            return
        self._waiting[task_id] = status

    def deadline(self) -> float | None:
        """Return when the next batch may go (monotonic); None when there is nothing to send or one is under way."""
        return self._next_at if self._waiting and not self._in_flight else None

    def take(self, now: float) -> tuple[StatusUpdate, ...]:
        """Return the next batch and consider it under way; empty when none may go now."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return ()
        for task_id in list(self._waiting)[:BATCH_MAX]:
            self._in_flight[task_id] = self._waiting.pop(task_id)
        return tuple(StatusUpdate(task_id=task_id, status=status) for task_id, status in self._in_flight.items())

    def acknowledged(self, now: float) -> None:
        """Say that the batch under way is stored."""
        self._in_flight.clear()
        self._next_at = now + COALESCE_S

    def lost(self) -> None:
        """Say that nobody knows whether the batch under way arrived: it goes again, unless there is newer news."""
        self._waiting = {**self._in_flight, **self._waiting}
        self._in_flight.clear()

    def forget(self, task_id: TaskId) -> None:
        """Drop what is known of a task that is no longer ours."""
        self._waiting.pop(task_id, None)
