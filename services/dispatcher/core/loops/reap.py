"""The reaper: gives up tasks of removed services, deletes tasks that are over and unwanted, and keeps each slot's history short.

Keys are task ids and slots (service id, slot). The history limit counts all tasks of a slot, running ones included; a service with a
limit of restart attempts keeps as many as its restarts need to be counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.dispatcher.core.picture import Key, Picture, Plan, SlotKey, Step, slot_of
from services.dispatcher.core.tasks import ended_at, is_job, is_over, is_wanted, iteration_of, wanted, with_state
from services.kit.model.ids import ServiceId, TaskId
from services.kit.model.objects import Cluster, Service, Task
from services.kit.model.specs import OrchestrationConfig
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

STILLBORN = "given up before any node had it"
DEFAULT_LIMIT = OrchestrationConfig().task_history_retention_limit


class Reap:
    """The reaper."""

    name = "reap"
    tables = frozenset({Table.TASK, Table.SERVICE, Table.CLUSTER})

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at every slot, at what must go, and at what has no service."""
        slots = {(task.service_id, slot_of(task)): None for task in view.tasks.values()}
        loose = [task.id for task in view.tasks.values() if _concerns(view, task)]
        return [*slots, *loose]

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """New tasks lengthen a slot; ended ones shorten it; a removed service frees all of its tasks."""
        thing = event.object
        if isinstance(thing, Task):
            return self._notice_task(view, event, thing)
        if isinstance(thing, Service) and event.new is None:
            return list(view.tasks_of_service(thing.id))
        if isinstance(thing, Cluster):
            return [(task.service_id, slot_of(task)) for task in view.tasks.values()]
        return ()

    def _notice_task(self, view: Picture, event: Event, task: Task) -> Iterable[Key]:
        if event.new is None:
            return ()
        place: tuple[str, SlotKey] = (task.service_id, slot_of(task))
        keys: list[Key] = []
        if len(view.slots_of(task.service_id).get(place[1], ())) > 1 and (event.old is None or is_over(task)):
            keys.append(place)
        if _concerns(view, task):
            keys.append(task.id)
        return keys

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Delete, give up, trim."""
        steps: list[Step] = []
        for key in keys:
            if isinstance(key, tuple):
                steps += self._trim(view, ServiceId(key[0]), key[1], key)
                continue
            task = view.tasks.get(TaskId(key))
            if task is None or not _concerns(view, task):
                continue
            if _is_stillborn(task) and task.service_id in view.services:
                steps.append(Step(key=key, puts=(with_state(task, TaskState.SHUTDOWN, now, STILLBORN),)))
            elif is_over(task):
                steps.append(Step(key=key, removes=(task,)))
            elif task.desired_state < TaskState.REMOVE:
                steps.append(Step(key=key, puts=(wanted(task, TaskState.REMOVE),)))
        return Plan(steps=steps)

    def _trim(self, view: Picture, service_id: ServiceId, slot: object, key: Key) -> Iterable[Step]:
        service = view.services.get(service_id)
        if service is None:
            return
        tasks = list(view.slots_of(service_id).get(slot, {}).values())  # type: ignore[call-overload]
        if is_job(service.spec):
            # Earlier runs are the jobs loop's; within the current one, restarts must not pile up.
            tasks = [task for task in tasks if task.job_iteration == iteration_of(service)]
        elif service.spec.task.restart.max_attempts > 0:
            # The task that an update keeps beside its new one is not among those that count attempts.
            tasks = [task for task in tasks if not is_wanted(task) or task.spec_version == service.spec_version]
        limit = _limit(view, service)
        surplus = len(tasks) - limit
        if limit < 0 or surplus <= 0:
            return
        spare = [task for task in tasks if task.status.state.terminal or (is_over(task) and not is_wanted(task))]
        # A task that is still wanted is about to be looked at by the restart loop, which needs it.
        spare = [task for task in spare if not is_wanted(task)]
        spare.sort(key=lambda task: (ended_at(task), task.id))
        for task in spare[:surplus]:
            yield Step(key=key, removes=(task,))


def _concerns(view: Picture, task: Task) -> bool:
    """Tell whether a task must go: it is to be removed and over, its service is gone, or it was given up before any node had it."""
    if task.desired_state >= TaskState.REMOVE:
        return is_over(task)
    return task.service_id not in view.services or _is_stillborn(task)


def _is_stillborn(task: Task) -> bool:
    """Tell whether nobody will ever report on a task: it is history, but no node had it."""
    return task.desired_state is TaskState.SHUTDOWN and task.status.state < TaskState.ASSIGNED


def _limit(view: Picture, service: Service) -> int:
    """Return how many tasks a slot keeps; negative means all."""
    attempts = service.spec.task.restart.max_attempts
    if attempts > 0:
        return attempts + 1
    cluster = view.cluster
    return DEFAULT_LIMIT if cluster is None else cluster.spec.orchestration.task_history_retention_limit
