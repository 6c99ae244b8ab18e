"""The scheduler: gives PENDING tasks a node (PENDING to ASSIGNED), or says in their status why there is none.

It keeps the index of the fleet (see ``core/fleet``) and feeds it with what the store says. A pass places at most so many tasks that
were stored before and comes back for the rest; tasks that this very pass has made are all placed, so that they are written once. What
waits is tried again when something changes that can help it. Steps carry the group (service, spec version) or the id of a task that was
made for a node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from services.dispatcher.core.fleet.bits import Bits
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group, GroupKey
from services.dispatcher.core.fleet.ledger import Ledger, Placement
from services.dispatcher.core.fleet.queue import GroupClass, Queue, class_of, is_scarce
from services.dispatcher.core.fleet.why import NO_SUITABLE_NODE, refusals, tell
from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.scheduling.demand import group_of
from services.dispatcher.core.scheduling.telling import Telling
from services.dispatcher.core.scheduling.waiting import Waiting, group_key
from services.dispatcher.core.tasks import PENDING, with_state
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Node, SpecVersion, Task
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

ASSIGNED = "scheduler assigned task to node"
CONFIRMED = "scheduler confirmed task can run on preassigned node"
ALL = "*"
"""The key that stands for everything that is worth a try."""
WORK_MAX = 4096
"""Units of work a pass, about a microsecond each in the engine."""
GROUP_WORK = 8
"""What looking for the first place of a group costs; each further task costs one."""
TURN = 10
"""Tasks that a group gets in one turn when there is not enough for all."""

_FAILED = frozenset({TaskState.FAILED, TaskState.REJECTED})
_replace = msgspec.structs.replace


class Scheduler:
    """Places tasks on the fleet."""

    name = "schedule"
    tables = frozenset({Table.NODE, Table.TASK, Table.SPEC})

    def __init__(self) -> None:
        self._fleet = Fleet()
        self.ledger = Ledger(self._fleet)
        self._queue = Queue(self._fleet)
        self._waiting = Waiting()
        self._telling = Telling()
        self._groups: dict[GroupKey, Group] = {}
        self._made_now: set[GroupKey] = set()
        """Groups with tasks that were made in this pass."""

    # -- what comes in

    def begin(self, view: Picture) -> Iterable[Key]:
        """Count what is placed, collect what waits."""
        self.__init__()  # type: ignore[misc]
        for node_id in sorted(view.nodes):
            self._fleet.put(view.nodes[node_id])
        for task in sorted(view.tasks.values(), key=lambda task: (task.service_id, task.slot, task.id)):
            self._take_in(view, task)
        return (ALL,)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """New tasks to place, and a second chance for those that wait."""
        match event.object:
            case Task():
                self._notice_task(view, event, event.object)
            case Node() if event.new is None:
                self._fleet.drop(event.object.id)
            case Node():
                self._fleet.put(event.object)
            case SpecVersion():
                self._notice_spec(event.object, gone=event.new is None)
            case _:
                pass
        return (ALL,) if self._has_work else ()

    @property
    def _has_work(self) -> bool:
        if self._queue.has_ready or self._waiting.has_confirmable:
            return True
        return bool(self._fleet.improved) and (self._queue.has_blocked or any(True for _ in self._waiting.nodes()))

    def _notice_spec(self, spec: SpecVersion, *, gone: bool) -> None:
        key = (spec.service_id, spec.version)
        if gone:
            self._groups.pop(key, None)
            self._fleet.failures.forget_group(key)

    def _notice_task(self, view: Picture, event: Event, task: Task) -> None:
        if event.new is None:
            self._forget(task)
            self.ledger.release(task.id)
            return
        old = event.old
        if isinstance(old, Task) and task.status.state in _FAILED and old.status.state not in _FAILED and task.slot:
            row = None if task.node_id is None else self._fleet.row_of.get(task.node_id)
            if row is not None:
                self._fleet.failures.add(group_key(task), row, task.status.applied_at)
        self._take_in(view, task)

    def _take_in(self, view: Picture, task: Task) -> None:
        """File a task where it belongs now."""
        if task.status.state is TaskState.PENDING and task.desired_state <= TaskState.COMPLETE:
            if self._waiting.add(task):
                self.ledger.release(task.id)
                self._let_try(view, task)
            return
        self._forget(task)
        if task.node_id is None or not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
            self.ledger.release(task.id)
            return
        group = self._group(view, group_key(task))
        if group is not None:
            counted = task.desired_state <= TaskState.COMPLETE
            self.ledger.hold(task.id, group, Placement(task.node_id, task.generic), counted=counted)

    def _let_try(self, view: Picture, task: Task) -> None:
        key = group_key(task)
        group = self._group(view, key)
        if group is not None and task.node_id is None:
            self._queue.ready(group)
            if not task.meta.version:
                self._made_now.add(key)

    def _forget(self, task: Task) -> None:
        self._waiting.discard(task)
        key = group_key(task)
        if not self._waiting.count(key):
            self._queue.forget(key)
            self._telling.forget(key)

    def _group(self, view: Picture, key: GroupKey) -> Group | None:
        group = self._groups.get(key)
        if group is None:
            spec = view.spec(*key)
            if spec is None:
                return None
            group = self._groups[key] = group_of(spec, view.networks)
        return group

    # -- what goes out

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Place tasks made for a node first, then group by group."""
        for key in keys:
            self._retry(view, key)
        self._wake()
        work = _Pass(self, view, now)
        work.confirm()
        work.place()
        self._made_now.clear()
        if self._queue.has_ready or self._waiting.has_confirmable:
            work.wakes[ALL] = now
        return Plan(steps=work.steps, wakes=work.wakes)

    def _retry(self, view: Picture, key: Key) -> None:
        """Take back placements that could not be written, and explanations that are due."""
        if isinstance(key, str):
            if key != ALL:
                self.ledger.release(TaskId(key))
                self._waiting.retry(TaskId(key))
            return
        group = self._group(view, (ServiceId(key[0]), int(key[1])))
        if group is not None and self._waiting.count(group.key):
            for task in self._waiting.of(group.key):
                self.ledger.release(task)
            self._queue.ready(group)

    def _wake(self) -> None:
        """Give a try to what fits on rows that have improved."""
        improved: Bits = self._fleet.improved
        self._fleet.improved = 0
        self._queue.wake(improved)
        for node in list(self._waiting.nodes()) if improved else ():
            row = self._fleet.row_of.get(node)
            if row is not None and improved >> row & 1:
                self._waiting.retry_on(node)


class _Pass:
    """One pass of the scheduler: what it has decided so far, and how much work is left."""

    def __init__(self, scheduler: Scheduler, view: Picture, now: float) -> None:
        self._scheduler = scheduler
        self._fleet = scheduler._fleet
        self._ledger = scheduler.ledger
        self._queue = scheduler._queue
        self._waiting = scheduler._waiting
        self._view = view
        self._now = now
        self._left = WORK_MAX
        self._texts: dict[GroupClass, str] = {}
        """Why a class found no place in this pass. Nothing is freed within a pass, so it finds none later in it."""
        self.steps: list[Step] = []
        self.wakes: dict[Key, float] = {}

    # -- tasks made for a node

    def confirm(self) -> None:
        """Try tasks on the nodes they were made for."""
        by_group: dict[GroupKey, list[tuple[TaskId, NodeId]]] = {}
        for task_id, node in self._waiting.take_confirmable(WORK_MAX):
            task = self._view.tasks.get(task_id)
            if task is not None:
                by_group.setdefault(group_key(task), []).append((task_id, node))
                self._left -= 1
        for key, pairs in by_group.items():
            group = self._scheduler._group(self._view, key)
            if group is not None:
                self._confirm_group(group, pairs)

    def _confirm_group(self, group: Group, pairs: list[tuple[TaskId, NodeId]]) -> None:
        for task_id, placement in self._ledger.confirm(group, pairs):
            task = self._view.tasks[task_id]
            if placement is not None:
                self.steps.append(Step(key=task_id, puts=(_assigned(task, placement, self._now, CONFIRMED),)))
                continue
            assert task.node_id is not None
            row = self._fleet.row_of.get(task.node_id)
            here = 0 if row is None else 1 << row
            reason = tell(refusals(self._fleet, group, here)) if here else NO_SUITABLE_NODE
            if task.status.error != reason:
                self.steps.append(Step(key=task_id, puts=(_refused(task, reason),)))

    # -- tasks for any node

    def place(self) -> None:
        """Place the ready groups, by priority; when there is not enough for all of a priority, in turns."""
        for _, band in list(self._queue.bands()):
            turns = deque(band)
            limit = TURN if len(band) > 1 and self._is_scarce(band) else WORK_MAX
            while turns:
                group = turns.popleft()
                fresh = group.key in self._scheduler._made_now
                if self._left <= 0 and not fresh:
                    continue
                if self._place_group(group, limit if limit == TURN or not fresh else 1 << 62):
                    turns.append(group)

    def _is_scarce(self, band: Sequence[Group]) -> bool:
        if any(self._queue.is_blocked(group) for group in band):
            return True
        return is_scarce(self._fleet, ((group, self._waiting.count(group.key)) for group in band))

    def _place_group(self, group: Group, limit: int) -> bool:
        """Place up to so many tasks of a group; True when it has more and may get them."""
        cls = class_of(self._fleet, group)
        tasks = [] if cls in self._texts else self._next_tasks(group, limit)
        placements = self._ledger.place(group, [task.id for task in tasks], self._now) if tasks else []
        self._left -= GROUP_WORK + len(placements)
        for task, placement in zip(tasks, placements, strict=False):
            self.steps.append(Step(key=group.key, puts=(_assigned(task, placement, self._now, ASSIGNED),)))
        if len(placements) < len(tasks):
            self._texts[cls] = tell(refusals(self._fleet, group))
        if cls in self._texts:
            self._queue.block(group)
            self._explain(group, self._texts[cls])
            return False
        if len(tasks) < limit:
            self._queue.forget(group.key)
            return False
        return True

    def _next_tasks(self, group: Group, limit: int) -> list[Task]:
        """Return the next tasks of a group that have no place yet."""
        placed = self._ledger.entries
        found = (self._view.tasks.get(task) for task in self._waiting.of(group.key) if task not in placed)
        return list(islice((task for task in found if task is not None), limit))

    def _explain(self, group: Group, reason: str) -> None:
        """Say to those that stay why, unless that was done a moment ago."""
        telling, key = self._scheduler._telling, group.key
        changed = [task for task in self._next_tasks(group, 1 << 62) if task.status.error != reason]
        if not changed:
            return
        if any(task.status.error for task in changed) and self._now < telling.due(key):
            self.wakes[key] = telling.due(key)
            return
        telling.told(key, self._now)
        for task in changed:
            self.steps.append(Step(key=key, puts=(_refused(task, reason),)))


def _assigned(task: Task, placement: Placement, now: float, message: str) -> Task:
    placed = with_state(task, TaskState.ASSIGNED, now, message)
    return _replace(placed, node_id=placement.node, generic=placement.generic)


def _refused(task: Task, reason: str) -> Task:
    return _replace(task, status=_replace(task.status, message=PENDING, error=reason))
