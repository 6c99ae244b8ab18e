"""What agents report about tasks, on its way into the store. A loop like the others, with an inbox.

Keys are task ids. The newest status of each task is kept until it can be written; a status never moves a task back, and counts only
from the node that has the task. Agents report again after a change of leader, so nothing here needs to survive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.kit.errors import PermissionDenied
from services.kit.messages.session import StatusUpdate
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Task, TaskStatus
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.state.view import View


class Statuses:
    """The inbox of statuses, and the loop that empties it."""

    name = "statuses"
    tables: frozenset[Table] = frozenset()

    def __init__(self, applied_by: NodeId) -> None:
        self._applied_by = applied_by
        self._inbox: dict[TaskId, TaskStatus] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Nothing is remembered."""
        self._inbox = {}
        return ()

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """The store tells nothing new here."""
        return ()

    def offer(self, view: View, node: NodeId, updates: Sequence[StatusUpdate]) -> list[TaskId]:
        """Take a node's report and return the tasks that will change by it.

        Raises PermissionDenied, taking nothing, when one of them is another node's.
        """
        accepted: list[TaskId] = []
        for update in updates:
            task = view.tasks.get(update.task_id)
            if task is None:
                continue
            if task.node_id != node:
                raise PermissionDenied(f"task {task.id} is not a task of node {node}")
            if _is_news(task.status, update.status):
                accepted.append(task.id)
        wanted = set(accepted)
        for update in updates:
            if update.task_id in wanted:
                known = self._inbox.get(update.task_id)
                if known is None or _is_news(known, update.status):
                    self._inbox[update.task_id] = update.status
        return accepted

    def stored(self, event: Event) -> TaskId | None:
        """Take what the store applied to a task; return it when all that was reported of it is stored or void."""
        task_id = TaskId(event.object.id)
        status = self._inbox.get(task_id)
        if status is None or (isinstance(event.new, Task) and _is_news(event.new.status, status)):
            return None
        del self._inbox[task_id]
        return task_id

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Write what is in the inbox."""
        steps: list[Step] = []
        for key in keys:
            status = self._inbox.get(TaskId(str(key)))
            task = view.tasks.get(TaskId(str(key)))
            if status is None or task is None or not _is_news(task.status, status):
                continue  # written already, or void; ``stored`` takes it out of the inbox
            merged = self._merged(task, status, now)
            steps.append(Step(key=key, puts=(msgspec.structs.replace(task, status=merged),)))
        return Plan(steps=steps)

    def _merged(self, task: Task, status: TaskStatus, now: float) -> TaskStatus:
        old = task.status
        same = status.state is old.state
        left_running = old.state is TaskState.RUNNING and not same
        return msgspec.structs.replace(
            status,
            applied_by=self._applied_by,
            applied_at=old.applied_at if same else now,
            ran_s=max(0.0, now - old.applied_at) if left_running else old.ran_s,
        )


def _is_news(old: TaskStatus, new: TaskStatus) -> bool:
    """Tell whether a status says more than the one that is known."""
    if new.state is not old.state:
        return new.state > old.state
    blank = msgspec.structs.replace(new, applied_by=old.applied_by, applied_at=old.applied_at, ran_s=old.ran_s)
    return blank != old
