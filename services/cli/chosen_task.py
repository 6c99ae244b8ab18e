"""Which task a user means who wants to go into one: a task in any way, or the name of a service that has one running task. Used by ``exec`` and its kin."""

from __future__ import annotations

from services.cli.context import Context
from services.client.client import Client
from services.kit.errors import FailedPrecondition, NotFound
from services.kit.messages.control import Filters, TaskReply
from services.kit.model.objects import Service, Task
from services.kit.model.states import TaskState

SHOWN_MAX = 5
TASK_HELP = "id, SERVICE.SLOT, or a service with one running task"


async def find_task(context: Context, ref: str) -> TaskReply:
    """Return the task that is meant; raises NotFound, and FailedPrecondition where it may be several."""
    service = await _service(context.client, ref)
    if service is None:
        async with context.suggesting_services(ref):
            return await context.client.tasks.get(ref)
    running = await running_tasks(context.client, service)
    if len(running) == 1:
        return await context.client.tasks.get(running[0].id)
    if not running:
        raise FailedPrecondition(f"service {ref!r} has no running task")
    shown = ", ".join(f"{ref}.{task.slot or task.node_id}" for task in running[:SHOWN_MAX])
    more = ", …" if len(running) > SHOWN_MAX else ""
    raise FailedPrecondition(f"service {ref!r} has {len(running)} running tasks: name one of {shown}{more}")


async def running_tasks(client: Client, service: Service) -> list[Task]:
    """Return a service's running tasks."""
    tasks = await client.tasks.list(Filters(service_ids=(service.id,)))
    return [task for task in tasks if task.status.state is TaskState.RUNNING]


async def _service(client: Client, ref: str) -> Service | None:
    """Return the service with exactly this name or id; a prefix may be a task's as well and is left to it."""
    try:
        service = await client.services.get(ref)
    except (NotFound, FailedPrecondition):
        return None
    return service if ref in {service.id, service.spec.annotations.name} else None
