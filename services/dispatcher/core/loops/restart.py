"""Restarts: replaces tasks that ended or lost their node, as their restart policy says, and lets replacements start when it is time.

Keys are task ids. A replacement waits with desired state READY (its node prepares it meanwhile) until the policy's delay is over and
its predecessor has stopped, or a minute has passed. All of it is derived from the tasks in the slot, so a new leader goes on alike.
Beyond SwarmKit: a task that lost its node to a failure is replaced without delay; the delay is there to slow tight loops down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.dispatcher.core.picture import Key, Picture, Plan, SlotKey, Step, is_usable, slot_of
from services.dispatcher.core.replacing import is_gone, replacement
from services.dispatcher.core.tasks import (
    NewId,
    goal,
    is_job,
    is_on_unusable_node,
    is_wanted,
    restart_delay,
    restart_policy,
    wanted,
)
from services.kit.model.ids import ServiceId, TaskId
from services.kit.model.objects import Node, Service, Task
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

STOP_WAIT_S = 60.0
"""A replacement waits at most this long, behind its delay, for its predecessor to stop."""


class Restart:
    """The restart supervisor."""

    name = "restart"
    tables = frozenset({Table.TASK, Table.NODE})

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._waiting: dict[tuple[ServiceId, SlotKey], TaskId] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all tasks that are meant to run."""
        self._waiting = {
            (task.service_id, slot_of(task)): task.id
            for task in view.tasks.values()
            if task.desired_state is TaskState.READY
        }
        return [task.id for task in view.tasks.values() if is_wanted(task)]

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """Tasks that ended or wait, and all tasks of a node that must not keep them."""
        thing = event.object
        if isinstance(thing, Task):
            return self._notice_task(event, thing)
        if isinstance(thing, Node) and (event.new is None or not is_usable(thing)):
            concerned = [task.id for task in view.tasks_of_node(thing.id).values() if is_wanted(task)]
            predecessors = view.tasks_of_node(thing.id).values()
            return concerned + [self._waiting[place] for place in map(_place, predecessors) if place in self._waiting]
        return ()

    def _notice_task(self, event: Event, task: Task) -> Iterable[Key]:
        place = _place(task)
        if event.new is not None and task.desired_state is TaskState.READY:
            self._waiting[place] = task.id
            return (task.id,)
        waiting = self._waiting.get(place)
        if waiting == task.id:
            del self._waiting[place]
            waiting = None
        over = event.new is None or task.status.state.terminal
        keys = () if waiting is None or not over else (waiting,)
        if event.new is None or not is_wanted(task):
            return keys
        return (task.id, *keys) if task.status.state.terminal else keys

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Replace what ended; let replacements start."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        for key in keys:
            task = view.tasks.get(TaskId(str(key)))
            service = None if task is None else view.services.get(task.service_id)
            if task is None or service is None or not is_wanted(task) or _is_done(service, task):
                continue
            lost = is_on_unusable_node(view, task)
            if task.desired_state is TaskState.READY and not lost:
                release_at = self._release_at(view, task, now)
                if now < release_at:
                    wakes[key] = release_at
                    continue
                if not task.status.state.terminal:
                    steps.append(Step(key=key, puts=(wanted(task, goal(service)),)))
                    continue
            if lost or task.status.state.terminal:
                steps.append(replacement(view, service, task, self._new_id, now, lost=lost))
        return Plan(steps=steps, wakes=wakes)

    def _release_at(self, view: Picture, task: Task, now: float) -> float:
        """Return when a waiting task may start; a time that has come when nothing holds it."""
        since = task.meta.created_at or now
        before = [other for other in view.slot(task.service_id, slot_of(task)) if other.id != task.id]
        delay_s = 0.0
        if before and before[-1].spec_version == task.spec_version and not _lost_its_node(view, before[-1]):
            delay_s = restart_delay(restart_policy(view, before[-1]), before[-1])
        stopping = any(
            TaskState.ASSIGNED <= other.status.state <= TaskState.RUNNING and not is_gone(view, other.node_id)
            for other in before
        )
        return since + delay_s + (STOP_WAIT_S if stopping else 0.0)


def _place(task: Task) -> tuple[ServiceId, SlotKey]:
    return task.service_id, slot_of(task)


def _lost_its_node(view: Picture, task: Task) -> bool:
    """Tell whether a task was given up for its node's sake: its successor need not wait."""
    return bool(task.reason) or is_on_unusable_node(view, task)


def _is_done(service: Service, task: Task) -> bool:
    """Tell whether a job's task has done what it is there for; it stays as it is."""
    return is_job(service.spec) and task.status.state is TaskState.COMPLETE
