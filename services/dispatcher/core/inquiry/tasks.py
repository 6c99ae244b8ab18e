"""Why a task is not where it should be, or None when it is."""

from __future__ import annotations

from services.dispatcher.core.control.refs import node_name, task_name
from services.dispatcher.core.dependencies import WAITING, unmet
from services.dispatcher.core.inquiry.placing import Placings
from services.dispatcher.core.loops.nodes import ORPHAN_AFTER_S
from services.dispatcher.core.picture import Picture, slot_of
from services.dispatcher.core.tasks import (
    is_allocated,
    is_wanted,
    may_restart,
    restart_delay,
    restart_policy,
    virtual_networks,
)
from services.kit.messages.inquiry import Finding
from services.kit.model.objects import Node, Service, Task
from services.kit.model.states import NodeState, RestartCondition, TaskState

_AT_AGENT = {
    TaskState.ASSIGNED: "its agent to take it",
    TaskState.ACCEPTED: "its agent to prepare it",
    TaskState.PREPARING: "its node to prepare it (images, files, ports)",
    TaskState.READY: "its agent to start it",
    TaskState.STARTING: "it to start, and to pass its health check if it has one",
}


def why_task(view: Picture, task: Task, placings: Placings, now: float) -> Finding | None:
    """Return what keeps a task from where it should be."""
    service = view.services.get(task.service_id)
    state = task.status.state
    if service is None:
        return _found(view, task, "its service is gone: it is removed once it has stopped", since=task.status.timestamp)
    if state.terminal:
        return _ended(view, service, task, now)
    if not is_wanted(task):
        return _stopping(view, task)
    if state is TaskState.NEW:
        return _new(view, service, task)
    if state is TaskState.PENDING:
        return _pending(view, task, placings)
    return _on_node(view, task, now)


def _new(view: Picture, service: Service, task: Task) -> Finding:
    since = task.meta.created_at
    if not is_allocated(service):
        wanted = "a free published port of 30000–32767"
        mend = "name a port, or remove services that publish ports"
        if virtual_networks(service.spec):
            wanted += f", or a free address in {_networks(view, service)}"
            mend += "; make a larger network"
        return _found(view, task, wanted, since=since, mend=mend)
    reasons = unmet(view, service)
    if reasons:
        return _found(view, task, "; ".join(reasons), since=since, mend="see `why` of what it waits for")
    if task.status.message.startswith(WAITING):
        mend = "a network with a larger subnet"
        return _found(view, task, task.status.message.removeprefix(WAITING), since=since, mend=mend)
    return _found(view, task, "the allocator, which has not come to it yet", since=since)


def _networks(view: Picture, service: Service) -> str:
    found = (view.networks.get(target) for target in virtual_networks(service.spec))
    return ", ".join(network.spec.annotations.name for network in found if network is not None)


def _pending(view: Picture, task: Task, placings: Placings) -> Finding:
    since = task.meta.created_at
    placing = placings.of(task)
    if placing is None:
        return _found(view, task, "its template, which is gone", since=since)
    if placing.fitting:
        words = f"the scheduler, which has not come to it yet: {placing.fitting} nodes would have it"
        return _found(view, task, words, since=since)
    if not placing.refusals:
        where = "there is none" if task.node_id is None else f"{task.node_id} is gone"
        return _found(view, task, f"a node: {where}", since=since, mend="join nodes to the swarm")
    found = _found(view, task, "a node that fits", since=since, mend=placing.refusals[0].mend)
    return Finding(
        about=found.about,
        state=found.state,
        waits_for=found.waits_for,
        since=found.since,
        mend=found.mend,
        refusals=placing.refusals,
        nearest=placing.nearest,
    )


def _on_node(view: Picture, task: Task, now: float) -> Finding | None:
    state, since = task.status.state, task.status.applied_at or task.status.timestamp
    node = None if task.node_id is None else view.nodes.get(task.node_id)
    if node is None or node.status.state is not NodeState.READY:
        return _found(view, task, _return_of(node, task), since=since, mend="look after the node, or remove it")
    if task.desired_state is TaskState.READY and state <= TaskState.READY:
        return _held_back(view, task, now)
    if state is TaskState.RUNNING:
        return None
    error = f" ({task.status.error})" if task.status.error else ""
    return _found(view, task, _AT_AGENT[state] + error, since=since)


def _held_back(view: Picture, task: Task, now: float) -> Finding:
    """A replacement that may not start yet."""
    before = [other for other in view.slot(task.service_id, slot_of(task)) if other.id != task.id]
    stopping = [other for other in before if TaskState.ASSIGNED <= other.status.state <= TaskState.RUNNING]
    since = task.meta.created_at
    if stopping:
        return _found(view, task, f"task {stopping[-1].id} of the same slot to stop", since=since)
    delay_s = restart_delay(restart_policy(view, before[-1]), before[-1]) if before else 0.0
    left_s = max(0.0, since + delay_s - now)
    return _found(view, task, f"its restart delay, {left_s:.1f} s more", since=since, mend="a shorter restart delay")


def _stopping(view: Picture, task: Task) -> Finding | None:
    node = None if task.node_id is None else view.nodes.get(task.node_id)
    since = task.meta.updated_at
    reason = f" ({task.reason})" if task.reason else ""
    if task.status.state < TaskState.ASSIGNED:
        return _found(view, task, "the reaper: it is not wanted any more", since=since)
    if node is None or node.status.state is not NodeState.READY:
        hours = ORPHAN_AFTER_S / 3600
        words = f"{_return_of(node, task)}, or {hours:g} hours to pass since then; nobody can say that it stopped"
        return _found(view, task, words, since=since, mend="remove the node with force if it is gone for good")
    return _found(view, task, f"it to stop{reason}: connections are drained, then it has its grace period", since=since)


def _ended(view: Picture, service: Service, task: Task, now: float) -> Finding | None:
    siblings = view.slot(task.service_id, slot_of(task))
    successors = [other for other in siblings if other.id != task.id and is_wanted(other)]
    if task.status.state is TaskState.COMPLETE and task.desired_state is TaskState.COMPLETE:
        return None
    since, error = task.status.applied_at or task.status.timestamp, task.status.error or task.status.message
    code = "" if task.status.exit_code is None else f", exit code {task.status.exit_code}"
    ended = f"nothing: it ended{code}" + (f" ({error})" if error else "")
    if task.reason:
        return _found(view, task, f"nothing: it was told to leave its node ({task.reason})", since=since)
    if successors:
        return _found(view, task, f"{ended}; task {successors[-1].id} has taken its place", since=since)
    if siblings and siblings[-1].id != task.id:
        return _found(view, task, f"{ended}; later tasks took its slot", since=since)
    if task.desired_state >= TaskState.REMOVE:
        return _found(view, task, "the reaper: it is to be removed", since=since)
    if may_restart(view, task, siblings, now):
        return _found(view, task, f"{ended}; it is about to be replaced", since=since)
    return _found(
        view, task, f"{ended}; {_no_restart(view, service, task)}", since=since, mend=_mend_restart(view, task)
    )


def _no_restart(view: Picture, service: Service, task: Task) -> str:
    policy = restart_policy(view, task)
    if policy.condition is RestartCondition.NONE:
        return "its restart policy is none"
    if task.status.state is TaskState.COMPLETE:
        return "its restart policy replaces what failed only"
    return f"its {policy.max_attempts} restart attempts are used up"


def _mend_restart(view: Picture, task: Task) -> str:
    if task.status.state is TaskState.COMPLETE:
        return ""
    return "mend the cause, then update the service (a forced update is enough)"


def _return_of(node: Node | None, task: Task) -> str:
    if node is None:
        return f"node {task.node_id} to come back, which is no longer in the swarm"
    return f"node {node_name(node) or node.id} to come back, which is {node.status.state.name.lower()}"


def _found(view: Picture, task: Task, waits_for: str, *, since: float = 0.0, mend: str = "") -> Finding:
    state = f"{task.status.state.name.lower()}, wanted {task.desired_state.name.lower()}"
    return Finding(about=f"task {task_name(view, task)}", state=state, waits_for=waits_for, since=since, mend=mend)
