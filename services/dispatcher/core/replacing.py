"""Replacing a task that ended, lost its node or must leave it: one step for all the loops that do so.

What must stay true: a slot gets at most one successor, in the same step that gives its predecessor up.
"""

from __future__ import annotations

from services.dispatcher.core.picture import Picture, Step, slot_of
from services.dispatcher.core.tasks import (
    NewId,
    is_global,
    is_wanted,
    iteration_of,
    may_restart,
    new_task,
    next_attempt,
    restart_delay,
    restart_policy,
    wanted,
)
from services.kit.model.ids import NodeId
from services.kit.model.objects import Service, Task
from services.kit.model.states import NodeState, TaskState


def replacement(
    view: Picture, service: Service, task: Task, new_id: NewId, now: float, *, lost: bool, reason: str = ""
) -> Step:
    """Return the step that gives a task up and, if its restart policy allows one, makes its successor.

    ``lost`` says that the task did not end by itself: its successor starts without the policy's delay, once the task has stopped.
    """
    ended = wanted(task, TaskState.SHUTDOWN, reason)
    siblings = view.slot(task.service_id, slot_of(task))
    rival = any(
        other.id != task.id and is_wanted(other) and other.job_iteration == task.job_iteration for other in siblings
    )
    if rival or task.job_iteration != iteration_of(service) or not may_restart(view, task, siblings, now):
        return Step(key=task.id, puts=(ended,))
    if is_global(service.spec) and lost:
        # The node's return brings its task back (see the loops of global services and jobs).
        return Step(key=task.id, puts=(ended,))
    policy = restart_policy(view, task)
    delay_s = 0.0 if lost else restart_delay(policy, task)
    at_once = delay_s == 0 and (task.status.state.terminal or is_gone(view, task.node_id))
    attempt = task.attempt if lost else next_attempt(policy, task)
    desired = None if at_once else TaskState.READY
    fresh = new_task(service, slot_of(task), new_id(), now, desired=desired, attempt=attempt)
    return Step(key=task.id, puts=(ended, fresh))


def is_gone(view: Picture, node_id: NodeId | None) -> bool:
    """Tell whether nobody can say any more that a task on this node stopped."""
    if node_id is None:
        return True
    node = view.nodes.get(node_id)
    return node is None or node.status.state is NodeState.DOWN
