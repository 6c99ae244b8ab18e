"""Tasks: how one is born, what it is worth to its slot, and how its wishes move on. Shared by the loops.

What must stay true: ``desired_state`` only moves forward, and only through ``wanted``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from services.dispatcher.core.picture import Picture, SlotKey, is_usable
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Service, Task, TaskStatus
from services.kit.model.specs import Global, GlobalJob, ReplicatedJob, RestartPolicy, ServiceSpec
from services.kit.model.states import PublishMode, RestartCondition, TaskState

NewId = Callable[[], TaskId]
"""Gives a fresh task id."""

CREATED = "created"
PENDING = "pending task scheduling"

_replace = msgspec.structs.replace


def is_job(spec: ServiceSpec) -> bool:
    """Tell whether a service's tasks are meant to end."""
    return isinstance(spec.mode, ReplicatedJob | GlobalJob)


def is_global(spec: ServiceSpec) -> bool:
    """Tell whether a service's slots are nodes."""
    return isinstance(spec.mode, Global | GlobalJob)


def is_allocated(service: Service) -> bool:
    """Tell whether a service's endpoint is what its spec asks for, so that its tasks may be scheduled."""
    wanted = service.spec.endpoint
    if service.endpoint is None:
        return not any(port.publish_mode is PublishMode.INGRESS for port in wanted.ports)
    return service.endpoint.spec == wanted


def new_task(
    service: Service, slot: SlotKey, task_id: TaskId, now: float, *, desired: TaskState = TaskState.RUNNING
) -> Task:
    """Return a new task for a slot, made from the service as it is now."""
    ready = is_allocated(service)
    status = TaskStatus(
        state=TaskState.PENDING if ready else TaskState.NEW, timestamp=now, message=PENDING if ready else CREATED
    )
    return Task(
        id=task_id,
        service_id=service.id,
        spec_version=service.spec_version,
        slot=slot if isinstance(slot, int) else 0,
        node_id=None if isinstance(slot, int) else NodeId(slot),
        desired_state=desired,
        status=status,
    )


def wanted(task: Task, desired: TaskState) -> Task:
    """Return the task with its desired state moved on to at least this one."""
    return task if task.desired_state >= desired else _replace(task, desired_state=desired)


def with_state(task: Task, state: TaskState, now: float, message: str, error: str = "") -> Task:
    """Return the task as the dispatcher itself observes it."""
    status = _replace(task.status, state=state, timestamp=now, message=message, error=error, applied_at=now)
    return _replace(task, status=status)


def is_wanted(task: Task) -> bool:
    """Tell whether a task is meant to run, now or soon."""
    return task.desired_state <= TaskState.RUNNING


def is_over(task: Task) -> bool:
    """Tell whether a task needs no stopping: it ended, or no node has it."""
    return task.status.state.terminal or task.status.state < TaskState.ASSIGNED


def ended_at(task: Task) -> float:
    """Return when a task's last state was stored."""
    return task.status.applied_at or task.status.timestamp


def restart_policy(view: Picture, task: Task) -> RestartPolicy:
    """Return the policy that was in force for a task."""
    spec = view.spec(task.service_id, task.spec_version)
    return RestartPolicy() if spec is None else spec.task.restart


def may_restart(view: Picture, task: Task, siblings: Sequence[Task], now: float) -> bool:
    """Tell whether the restart policy allows a replacement for a task that ended or lost its node.

    The restarts so far are the tasks of the same spec version in the slot, but for the first; the reaper keeps as many as this rule
    needs, so that nothing has to be remembered and a new leader decides alike.
    """
    policy = restart_policy(view, task)
    if policy.condition is RestartCondition.NONE:
        return False
    if policy.condition is RestartCondition.ON_FAILURE and task.status.state is TaskState.COMPLETE:
        return False
    if policy.max_attempts == 0:
        return True
    same = [sibling for sibling in siblings if sibling.spec_version == task.spec_version]
    restarts = same[1:]
    if policy.window_s > 0:
        failed = ended_at(task) or now
        restarts = [s for s in restarts if failed - policy.window_s <= (s.meta.created_at or now) <= failed]
    return len(restarts) < policy.max_attempts


def is_on_unusable_node(view: Picture, task: Task) -> bool:
    """Tell whether a task was given to a node that must not keep it."""
    return task.node_id is not None and not is_usable(view.nodes.get(task.node_id))
