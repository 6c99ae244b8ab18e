"""``why``: finds what a user means and collects the findings, equal ones of a service's tasks as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from services.dispatcher.core.control.refs import find_node, find_service, find_task, node_name, task_name
from services.dispatcher.core.inquiry.placing import Placings
from services.dispatcher.core.inquiry.tasks import why_task
from services.dispatcher.core.loops.jobs import is_running, schedule_of
from services.dispatcher.core.picture import Picture
from services.dispatcher.core.tasks import is_job, is_wanted, iteration_of
from services.kit.errors import FailedPrecondition, NotFound, SwarmError
from services.kit.messages.inquiry import Finding, WhyReply
from services.kit.model.cron import parse_cron, parse_zone
from services.kit.model.objects import Node, Service, Task
from services.kit.model.states import Availability, NodeState, TaskState, UpdateState
from services.kit.state.view import View

_replace = msgspec.structs.replace

FINDINGS_MAX = 20
"""Most findings of one answer."""


def find_any(view: View, ref: str) -> Service | Task | Node:
    """Return the service, task or node that a user means; raises NotFound, or FailedPrecondition when it may be several."""
    ambiguous: SwarmError | None = None
    finders: tuple[Callable[[View, str], Service | Task | Node], ...] = (find_service, find_task, find_node)
    for find in finders:
        try:
            return find(view, ref)
        except NotFound:
            continue
        except FailedPrecondition as error:
            ambiguous = error
    raise ambiguous or NotFound(f"there is no service, task or node {ref!r}")


def why(view: Picture, ref: str, now: float) -> WhyReply:
    """Return why something is not where it should be."""
    thing = find_any(view, ref)
    placings = Placings(view)
    match thing:
        case Service():
            found = list(why_service(view, thing, placings, now))
            return WhyReply(noun="service", name=thing.spec.annotations.name, findings=tuple(found[:FINDINGS_MAX]))
        case Node():
            found = list(why_node(view, thing))
            return WhyReply(noun="node", name=node_name(thing) or thing.id, findings=tuple(found[:FINDINGS_MAX]))
        case Task():
            finding = why_task(view, thing, placings, now)
            return WhyReply(noun="task", name=task_name(view, thing), findings=() if finding is None else (finding,))


def why_service(view: Picture, service: Service, placings: Placings, now: float) -> Iterator[Finding]:
    """Yield what keeps a service from being as its spec says."""
    name = f"service {service.spec.annotations.name}"
    yield from _why_update(service, name)
    yield from _why_schedule(view, service, name, now)
    yield from _grouped(view, service, placings, now)


def why_node(view: Picture, node: Node) -> Iterator[Finding]:
    """Yield what keeps a node from running tasks."""
    name = f"node {node_name(node) or node.id}"
    state = f"{node.status.state.name.lower()}, {node.spec.availability.value}"
    tasks = [t for t in view.tasks_of_node(node.id).values() if not t.status.state.terminal]
    if node.status.state is not NodeState.READY:
        message = f" ({node.status.message})" if node.status.message else ""
        yield Finding(
            about=name,
            state=state,
            waits_for=f"its agent to register{message}",
            since=node.status.since,
            mend="start its supervisor, and see that it reaches a manager",
        )
    if node.spec.availability is Availability.DRAIN and tasks:
        words = f"{len(tasks)} tasks to leave it"
        yield Finding(about=name, state=state, waits_for=words, mend="see `why` of the tasks that stay")
    elif node.spec.availability is not Availability.ACTIVE:
        yield Finding(
            about=name,
            state=state,
            waits_for=f"its user: it takes no tasks because it is {_words(node.spec.availability)}",
            mend="set its availability to active",
        )
    if node.role is not node.spec.desired_role:
        words = f"its role to become {node.spec.desired_role.value}: it needs a new certificate first"
        yield Finding(about=name, state=f"role {node.role.value}", waits_for=words)


def _why_update(service: Service, name: str) -> Iterator[Finding]:
    status = service.update_status
    if status is None or status.state in {UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED}:
        return
    paused = status.state in {UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED}
    yield Finding(
        about=name,
        state=status.state.value,
        waits_for=("its user: " if paused else "the update to go through: ") + status.message,
        since=status.started_at,
        mend="resume the update, change the spec again, or roll back" if paused else "",
    )


def _why_schedule(view: Picture, service: Service, name: str, now: float) -> Iterator[Finding]:
    schedule = schedule_of(service)
    if schedule is None or is_running(view, service):
        return
    if schedule.suspended:
        yield Finding(about=name, state="suspended", waits_for="its user", mend="let the schedule go on")
        return
    due = parse_cron(schedule.cron).next_after(now, parse_zone(schedule.time_zone))
    words = "never again" if due is None else f"its next run, in {max(0.0, due - now):.0f} s"
    yield Finding(about=name, state=f"run {iteration_of(service)} is over", waits_for=words)


@dataclass(slots=True)
class _Alike:
    finding: Finding
    names: list[str] = field(default_factory=list)


def _grouped(view: Picture, service: Service, placings: Placings, now: float) -> Iterator[Finding]:
    """Yield the findings on a service's tasks; tasks that wait for the same are one finding."""
    groups: dict[tuple[object, ...], _Alike] = {}
    for task in _open_tasks(view, service):
        finding = why_task(view, task, placings, now)
        if finding is None:
            continue
        key = (finding.state, finding.waits_for, finding.refusals, finding.nearest)
        group = groups.setdefault(key, _Alike(finding))
        group.names.append(finding.about)
        if finding.since and finding.since < group.finding.since:
            group.finding = finding
    for group in sorted(groups.values(), key=lambda group: -len(group.names)):
        about = group.names[0] if len(group.names) == 1 else f"{len(group.names)} tasks, {group.names[0]} and others"
        yield _replace(group.finding, about=about)


def _open_tasks(view: Picture, service: Service) -> Iterable[Task]:
    """Return the newest task of each slot, and all that should not live any more."""
    current = iteration_of(service)
    for slot in view.slots_of(service.id).values():
        tasks = [task for task in slot.values() if task.job_iteration == current or not is_job(service.spec)]
        for task in tasks:
            lingers = not is_wanted(task) and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
            if task is tasks[-1] or lingers or (is_wanted(task) and not task.status.state.terminal):
                yield task


def _words(availability: Availability) -> str:
    return "paused" if availability is Availability.PAUSE else "drained"
