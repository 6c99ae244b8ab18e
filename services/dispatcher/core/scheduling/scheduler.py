"""The scheduler: gives PENDING tasks a node (PENDING to ASSIGNED), or says in their status why there is none.

Keys are groups (service, spec version), whose tasks are placed together, and ids of tasks that were made for a node (global
services). What waits is tried again whenever a node changed or a task gave something back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.scheduling.demand import Demand, Group, demand_of
from services.dispatcher.core.scheduling.fleet import Fleet, Placement
from services.dispatcher.core.tasks import PENDING, with_state
from services.kit.model.ids import ServiceId, TaskId
from services.kit.model.objects import Node, SpecVersion, Task
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

ASSIGNED = "scheduler assigned task to node"
CONFIRMED = "scheduler confirmed task can run on preassigned node"
EXPLAIN_INTERVAL_S = 1.0
"""A group's explanations are rewritten at most this often."""
WAITING = "*"
"""The key that stands for everything that waits."""

_FAILED = frozenset({TaskState.FAILED, TaskState.REJECTED})
_replace = msgspec.structs.replace


class Scheduler:
    """Places tasks on the fleet."""

    name = "schedule"
    tables = frozenset({Table.NODE, Table.TASK, Table.SPEC})

    def __init__(self) -> None:
        self._fleet = Fleet()
        self._demands: dict[Group, Demand] = {}
        self._waiting: dict[Group, dict[TaskId, None]] = {}
        self._made_for: dict[TaskId, None] = {}
        self._explained_at: dict[Group, float] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Count what is placed, collect what waits."""
        self.__init__()  # type: ignore[misc]
        for node in view.nodes.values():
            self._fleet.put_node(node)
        for task in view.tasks.values():
            self._take_in(view, task)
        return (WAITING,)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """New tasks to place, and a second chance for those that wait."""
        thing = event.object
        if isinstance(thing, Task):
            return self._notice_task(view, event, thing)
        if isinstance(thing, Node):
            if event.new is None:
                self._fleet.drop_node(thing.id)
                return ()
            self._fleet.put_node(thing)
            return self._second_chance()
        if isinstance(thing, SpecVersion) and event.new is None:
            self._demands.pop((thing.service_id, thing.version), None)
        return ()

    def _second_chance(self) -> Iterable[Key]:
        return (WAITING,) if self._waiting or self._made_for else ()

    def _notice_task(self, view: Picture, event: Event, task: Task) -> Iterable[Key]:
        if event.new is None:
            self._forget(task)
            return self._second_chance() if self._fleet.release(task.id) else ()
        old = event.old
        if (
            isinstance(old, Task)
            and task.status.state in _FAILED
            and old.status.state not in _FAILED
            and task.node_id is not None
            and task.slot
        ):
            self._fleet.failed(task.node_id, (task.service_id, task.spec_version), task.status.applied_at)
        return self._take_in(view, task)

    def _take_in(self, view: Picture, task: Task) -> Iterable[Key]:
        """File a task where it belongs now, and return what is to be placed because of it."""
        if task.status.state is TaskState.PENDING and task.desired_state <= TaskState.COMPLETE:
            if task.node_id is not None:
                self._made_for[task.id] = None
                return (task.id,)
            group = (task.service_id, task.spec_version)
            self._waiting.setdefault(group, {})[task.id] = None
            return (group,)
        self._forget(task)
        if task.node_id is None or not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
            return self._second_chance() if self._fleet.release(task.id) else ()
        demand = self._demand(view, task)
        if demand is not None:
            counted = task.desired_state <= TaskState.COMPLETE
            self._fleet.hold(task.id, demand, Placement(task.node_id, task.generic), counted=counted)
        return ()

    def _forget(self, task: Task) -> None:
        self._made_for.pop(task.id, None)
        group = (task.service_id, task.spec_version)
        waiting = self._waiting.get(group)
        if waiting is not None:
            waiting.pop(task.id, None)
            if not waiting:
                del self._waiting[group]
                self._explained_at.pop(group, None)

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Place tasks made for a node first, then group by group."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        everything = WAITING in keys
        made_for = list(self._made_for) if everything else [key for key in keys if isinstance(key, str)]
        groups: Iterable[Key] = list(self._waiting) if everything else [key for key in keys if isinstance(key, tuple)]
        for task_id in made_for:
            steps += self._confirm(view, TaskId(task_id), now)
        for group in groups:
            assert isinstance(group, tuple)
            self._place_group(view, (ServiceId(group[0]), int(group[1])), now, steps, wakes)
        return Plan(steps=steps, wakes=wakes)

    def _place_group(self, view: Picture, group: Group, now: float, steps: list[Step], wakes: dict[Key, float]) -> None:
        tasks = self._unplaced(view, group)
        demand = self._demand(view, tasks[0]) if tasks else None
        if demand is None:
            return
        placements = self._fleet.place(demand, [task.id for task in tasks], now)
        for task, placement in zip(tasks, placements, strict=False):
            steps.append(Step(key=group, puts=(_assigned(task, placement, now, ASSIGNED),)))
        left = tasks[len(placements) :]
        if not left:
            return
        since = self._explained_at.get(group)
        if since is not None and now < since + EXPLAIN_INTERVAL_S:
            wakes[group] = since + EXPLAIN_INTERVAL_S
            return
        reason = self._fleet.explain(demand)
        for task in left:
            if task.status.error != reason:
                self._explained_at[group] = now
                steps.append(Step(key=group, puts=(_refused(task, reason),)))

    def _unplaced(self, view: Picture, group: Group) -> list[Task]:
        """Return the group's tasks that wait, in the order of their slots; undo placements that were not written."""
        tasks = [task for task_id in self._waiting.get(group, ()) if (task := view.tasks.get(task_id)) is not None]
        for task in tasks:
            self._fleet.release(task.id)
        tasks.sort(key=lambda task: (task.slot, task.id))
        return tasks

    def _confirm(self, view: Picture, task_id: TaskId, now: float) -> Iterable[Step]:
        task = view.tasks.get(task_id)
        if task is None or task_id not in self._made_for or task.node_id is None:
            return
        demand = self._demand(view, task)
        if demand is None:
            return
        self._fleet.release(task_id)
        outcome = self._fleet.try_node(demand, task_id, task.node_id)
        if isinstance(outcome, Placement):
            yield Step(key=task_id, puts=(_assigned(task, outcome, now, CONFIRMED),))
        elif task.status.error != outcome:
            yield Step(key=task_id, puts=(_refused(task, outcome),))

    def _demand(self, view: Picture, task: Task) -> Demand | None:
        group = (task.service_id, task.spec_version)
        demand = self._demands.get(group)
        if demand is None:
            spec = view.spec(*group)
            if spec is None:
                return None
            demand = self._demands[group] = demand_of(spec)
        return demand


def _assigned(task: Task, placement: Placement, now: float, message: str) -> Task:
    placed = with_state(task, TaskState.ASSIGNED, now, message)
    return _replace(placed, node_id=placement.node, generic=placement.generic)


def _refused(task: Task, reason: str) -> Task:
    return _replace(task, status=_replace(task.status, message=PENDING, error=reason))
