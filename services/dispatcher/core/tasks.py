"""Tasks: how one is born, what it is worth to its slot, and how its wishes move on. Shared by the loops.

What must stay true: ``desired_state`` only moves forward, and only through ``wanted``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import msgspec

from services.dispatcher.core.picture import Picture, SlotKey, is_usable
from services.kit.model.ids import NetworkId, NodeId, TaskId
from services.kit.model.objects import Service, Task, TaskStatus
from services.kit.model.specs import Global, GlobalJob, ReplicatedJob, RestartPolicy, ServiceSpec
from services.kit.model.states import EndpointMode, PublishMode, RestartCondition, TaskState

NewId = Callable[[], TaskId]
"""Gives a fresh task id."""

ATTEMPTS_SEEN_MAX = 64
"""Restarts in a row beyond this one make a delay no longer."""
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
    wanted, networks = service.spec.endpoint, virtual_networks(service.spec)
    if service.endpoint is None:
        return not networks and not any(port.publish_mode is PublishMode.INGRESS for port in wanted.ports)
    return service.endpoint.spec == wanted and networks == tuple(
        each.network_id for each in service.endpoint.virtual_ips
    )


def virtual_networks(spec: ServiceSpec) -> tuple[NetworkId, ...]:
    """Return the networks in which a service has an address of its own, beside those of its tasks."""
    if spec.endpoint.mode is not EndpointMode.VIP:
        return ()
    return tuple(attachment.target for attachment in spec.task.networks)


def goal(service: Service) -> TaskState:
    """Return the state in which a service's tasks are meant to end up: running, or done."""
    return TaskState.COMPLETE if is_job(service.spec) else TaskState.RUNNING


def iteration_of(service: Service) -> int:
    """Return which run of a job is current; 0 for services that are none."""
    return 0 if service.job_status is None else service.job_status.iteration


def new_task(
    service: Service,
    slot: SlotKey,
    task_id: TaskId,
    now: float,
    *,
    desired: TaskState | None = None,
    attempt: int = 0,
) -> Task:
    """Return a new task for a slot, made from the service as it is now.

    One with dependencies or networks is for the allocator to let on.
    """
    ready = is_allocated(service) and not service.spec.depends_on and not service.spec.task.networks
    status = TaskStatus(
        state=TaskState.PENDING if ready else TaskState.NEW, timestamp=now, message=PENDING if ready else CREATED
    )
    return Task(
        id=task_id,
        service_id=service.id,
        spec_version=service.spec_version,
        slot=slot if isinstance(slot, int) else 0,
        node_id=None if isinstance(slot, int) else NodeId(slot),
        desired_state=goal(service) if desired is None else desired,
        status=status,
        job_iteration=iteration_of(service),
        attempt=attempt,
    )


def wanted(task: Task, desired: TaskState, reason: str = "") -> Task:
    """Return the task with its desired state moved on to at least this one."""
    if task.desired_state >= desired:
        return task
    return _replace(task, desired_state=desired, reason=reason or task.reason)


def with_state(task: Task, state: TaskState, now: float, message: str, error: str = "") -> Task:
    """Return the task as the dispatcher itself observes it."""
    status = _replace(task.status, state=state, timestamp=now, message=message, error=error, applied_at=now)
    return _replace(task, status=status)


def is_wanted(task: Task) -> bool:
    """Tell whether a task is meant to run, now or soon (or, for a job's task, to have run)."""
    return task.desired_state <= TaskState.COMPLETE


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
    if task.status.state is TaskState.COMPLETE and (
        policy.condition is RestartCondition.ON_FAILURE or is_jobs_task(view, task)
    ):
        return False
    if policy.max_attempts == 0:
        return True
    kind = (task.spec_version, task.job_iteration)
    same = [sibling for sibling in siblings if (sibling.spec_version, sibling.job_iteration) == kind]
    restarts = same[1:]
    if policy.window_s > 0:
        failed = ended_at(task) or now
        restarts = [s for s in restarts if failed - policy.window_s <= (s.meta.created_at or now) <= failed]
    return len(restarts) < policy.max_attempts


def is_jobs_task(view: Picture, task: Task) -> bool:
    """Tell whether a task belongs to a job."""
    service = view.services.get(task.service_id)
    return service is not None and is_job(service.spec)


def restart_delay(policy: RestartPolicy, task: Task) -> float:
    """Return how long the successor of a task waits, in seconds: longer after each restart in a row, if the policy asks for it.

    The jitter is read from the task's id, so that every leader comes to the same time.
    """
    if policy.delay_s == 0:
        return 0.0
    grown = policy.delay_s * policy.backoff_factor ** min(task.attempt, ATTEMPTS_SEEN_MAX)
    delay_s = min(grown, max(policy.delay_max_s, policy.delay_s))
    if policy.jitter == 0:
        return delay_s
    share = crc32(task.id.encode()) / 0xFFFF_FFFF
    return delay_s * (1 + policy.jitter * (2 * share - 1))


def next_attempt(policy: RestartPolicy, task: Task) -> int:
    """Return the attempt of a task's successor: one that ran long enough starts afresh."""
    return 0 if task.status.ran_s > policy.delay_max_s else task.attempt + 1


def is_on_unusable_node(view: Picture, task: Task) -> bool:
    """Tell whether a task was given to a node that must not keep it."""
    return task.node_id is not None and not is_usable(view.nodes.get(task.node_id))
