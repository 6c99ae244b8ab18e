"""Tasks, as the client sees them. A ``ref`` is an id or an unambiguous prefix of one."""

from __future__ import annotations

from services.client.line import ControlLine
from services.kit.messages import control
from services.kit.model.objects import Task


class Tasks:
    """``client.tasks``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def get(self, ref: str, *, stale: bool = False) -> control.TaskReply:
        """Return one task with the template it runs; raises NotFound."""
        return await self._line.call(control.GET_TASK, control.GetRequest(ref=ref, stale=stale))

    async def list(self, filters: control.Filters = control.Filters(), *, stale: bool = False) -> tuple[Task, ...]:
        """Return tasks by service, slot and newest first.

        >>> service = await client.services.get("web")  # doctest: +SKIP
        >>> await client.tasks.list(Filters(service_ids=(service.id,)))  # doctest: +SKIP
        """
        return (await self.list_with_specs(filters, stale=stale)).tasks

    async def list_with_specs(
        self, filters: control.Filters = control.Filters(), *, stale: bool = False
    ) -> control.TaskList:
        """Return tasks and the templates that they run."""
        return await self._line.call(control.LIST_TASKS, control.ListRequest(filters=filters, stale=stale))

    async def remove(self, ref: str) -> Task:
        """Delete a task from the store whatever its state, and return it as it was; its service starts another one."""
        task = (await self.get(ref)).task
        await self._line.remove(control.REMOVE_TASK, control.RemoveTaskRequest(task_id=task.id))
        return task
