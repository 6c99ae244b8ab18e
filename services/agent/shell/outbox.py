"""Between the tasks and the session: statuses on their way to the dispatcher, and the news that there are some."""

from __future__ import annotations

from collections.abc import Iterable

from services.agent.core.reports import Reports
from services.kit.model.ids import TaskId
from services.kit.model.objects import TaskStatus
from services.kit.runtime.changes import Changes


class Outbox:
    """The reports, and who waits for them."""

    def __init__(self) -> None:
        self.reports = Reports()
        self.news = Changes()

    def put(self, statuses: Iterable[tuple[TaskId, TaskStatus]]) -> None:
        """Have the dispatcher told of these."""
        for task_id, status in statuses:
            self.reports.put(task_id, status)
        self.news.announce()
