"""One pass of the scheduler: what it decides about the tasks that are worth a try, and how much of that work one pass may do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from services.dispatcher.core.fleet.bands import Bands
from services.dispatcher.core.fleet.group import Group, GroupKey
from services.dispatcher.core.fleet.ledger import Placement
from services.dispatcher.core.fleet.preempt import Tenant, evictions
from services.dispatcher.core.fleet.queue import GroupClass, class_of, is_scarce
from services.dispatcher.core.fleet.why import NO_SUITABLE_NODE, refusals, tell
from services.dispatcher.core.picture import Bunch, Key, Picture, Step
from services.dispatcher.core.scheduling.kept import Kept
from services.dispatcher.core.scheduling.waiting import group_key
from services.dispatcher.core.tasks import PENDING
from services.dispatcher.core.tasks import wanted as wanted_state
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Task, TaskStatus
from services.kit.model.states import TaskState

ASSIGNED = "scheduler assigned task to node"
CONFIRMED = "scheduler confirmed task can run on preassigned node"
DISPLACED = "made room for service {}"
ALL = "*"
"""The key that stands for everything that is worth a try."""
TELL = "?"
"""The key that stands for the explanations of what stays pending."""
WORK_MAX = 4096
"""Units of work a pass, about a microsecond each in the engine."""
GROUP_WORK = 8
"""What looking for the first place of a group costs; each further task costs one."""
TURN = 10
"""Tasks that a group gets in one turn when there is not enough for all."""

_replace = msgspec.structs.replace


class Pass:
    """One pass of the scheduler: what it has decided so far, and how much work is left."""

    def __init__(self, kept: Kept, view: Picture, now: float) -> None:
        self._kept = kept
        self._view = view
        self._now = now
        self._left = WORK_MAX
        self._texts: dict[GroupClass, str] = {}
        """Why a class found no place in this pass. Nothing is freed within a pass, so it finds none later in it."""
        self._unplaced: dict[GroupKey, Iterator[Task]] = {}
        self._short: list[Group] = []
        """Groups that found no place for all of their tasks."""
        self.steps: list[Step | Bunch] = []
        self.wakes: dict[Key, float] = {}

    # -- tasks made for a node

    def confirm(self) -> None:
        """Try tasks on the nodes they were made for."""
        by_group: dict[GroupKey, list[tuple[TaskId, NodeId]]] = {}
        for task_id, node in self._kept.waiting.take_confirmable(WORK_MAX):
            task = self._view.tasks.get(task_id)
            if task is not None:
                by_group.setdefault(group_key(task), []).append((task_id, node))
                self._left -= 1
        for key, pairs in by_group.items():
            group = self._kept.group(self._view, key)
            if group is not None:
                self._confirm_group(group, pairs)

    def _confirm_group(self, group: Group, pairs: list[tuple[TaskId, NodeId]]) -> None:
        for task_id, placement in self._kept.ledger.confirm(group, pairs):
            task = self._view.tasks[task_id]
            if placement is not None:
                status = _assignment(self._now, CONFIRMED)
                self.steps.append(Step(key=task_id, puts=(_assigned(task, placement, status),)))
                continue
            assert task.node_id is not None
            row = self._kept.fleet.row_of.get(task.node_id)
            here = 0 if row is None else 1 << row
            reason = tell(refusals(self._kept.fleet, group, here)) if here else NO_SUITABLE_NODE
            if task.status.error != reason:
                self.steps.append(Step(key=task_id, puts=(_refused(task, reason),)))

    # -- tasks for any node

    def place(self) -> None:
        """Place the ready groups, by priority; when there is not enough for all of a priority, in turns."""
        for band in self._kept.queue.bands(WORK_MAX // GROUP_WORK, self._kept.made_now):
            turns = deque(band)
            limit = TURN if len(band) > 1 and self._is_scarce(band) else WORK_MAX
            while turns:
                group = turns.popleft()
                fresh = group.key in self._kept.made_now
                if self._left <= 0 and not fresh:
                    continue
                if self._place_group(group, limit if limit == TURN or not fresh else 1 << 62):
                    turns.append(group)

    def _is_scarce(self, band: Sequence[Group]) -> bool:
        if any(self._kept.queue.is_blocked(group) for group in band):
            return True
        return is_scarce(self._kept.fleet, ((group, self._kept.waiting.count(group.key)) for group in band))

    def _place_group(self, group: Group, limit: int) -> bool:
        """Place up to so many tasks of a group; True when it has more and may get them."""
        cls = class_of(self._kept.fleet, group)
        tasks = [] if cls in self._texts else self._next_tasks(group, limit)
        within = ~self._kept.evictions.closed_to(group.priority)
        placements = self._kept.ledger.place(group, [task.id for task in tasks], self._now, within) if tasks else []
        self._left -= GROUP_WORK + len(placements)
        if placements:
            status = _assignment(self._now, ASSIGNED)
            puts = [_assigned(task, place, status) for task, place in zip(tasks, placements, strict=False)]
            self._kept.placed.update(zip([task.id for task in puts], puts, strict=True))
            self.steps.append(Bunch(key=group.key, puts=puts))
        if len(placements) < len(tasks):
            self._texts[cls] = tell(refusals(self._kept.fleet, group))
        if cls in self._texts:
            self._kept.queue.block(group)
            self._short.append(group)
            self._explain(group, self._texts[cls])
            return False
        if len(tasks) < limit:
            self._kept.queue.forget(group.key)
            return False
        return True

    def _next_tasks(self, group: Group, limit: int) -> list[Task]:
        """Return the next tasks of a group that have no place yet, each once in a pass."""
        unplaced = self._unplaced.get(group.key)
        if unplaced is None:
            unplaced = self._unplaced[group.key] = self._all_unplaced(group)
        return list(islice(unplaced, limit))

    def _all_unplaced(self, group: Group) -> Iterator[Task]:
        placed, tasks = self._kept.ledger.entries, self._view.tasks
        for task_id in self._kept.waiting.of(group.key):
            if task_id not in placed and (task := tasks.get(task_id)) is not None:
                yield task

    # -- room for what is more important

    def make_room(self) -> None:
        """End less important tasks for those that found no place, as far as the cluster allows it."""
        cluster = self._view.cluster
        allowed = 0 if cluster is None else cluster.spec.scheduling.evictions_max
        for group in self._short:
            budget = allowed - self._kept.evictions.victims
            if budget <= 0:
                return
            self._make_room_for(group, budget)

    def _make_room_for(self, group: Group, budget: int) -> None:
        fleet, under_way = self._kept.fleet, self._kept.evictions
        wanted = sum(1 for _ in self._all_unplaced(group)) - under_way.under_way_for(group)
        if fleet.bands is None:
            fleet.bands = Bands((entry.row, entry.group) for entry in self._kept.ledger.entries.values())
        for eviction in evictions(fleet, fleet.bands, group, wanted, self._tenants, budget, within=~under_way.rows()):
            tasks = [self._view.tasks[tenant.task] for tenant in eviction.victims]
            under_way.add(group, eviction.row, [task.id for task in tasks])
            reason = DISPLACED.format(group.name or group.service)
            self.steps += (
                Step(key=group.key, puts=(wanted_state(task, TaskState.SHUTDOWN, reason),)) for task in tasks
            )

    def _tenants(self, row: int) -> Iterator[Tenant]:
        """Yield the tasks of a row that may be ended: those that are meant to run."""
        entries = self._kept.ledger.entries
        for task_id in self._view.tasks_of_node(self._kept.fleet.node_ids[row]):
            entry = entries.get(task_id)
            if entry is not None and entry.counted:
                yield Tenant(task_id, entry.group)

    # -- words for what stays

    def tell(self) -> None:
        """Look at all explanations again, but not more often than once in a while."""
        later = self._kept.telling.begin_round(self._now)
        if later is not None:
            self._tell_at(later)
            return
        for groups in self._kept.queue.blocked():
            reason = tell(refusals(self._kept.fleet, groups[0]))
            for group in groups:
                self._explain(group, reason)

    def _explain(self, group: Group, reason: str) -> None:
        """Say to those that stay why; what was said to them a moment ago stays for the time being."""
        telling, key = self._kept.telling, group.key
        changed = [task for task in self._all_unplaced(group) if task.status.error != reason]
        if not changed:
            return
        if self._now < telling.due(key):
            changed = [task for task in changed if not task.status.error]
            self._tell_at(telling.due(key))
        else:
            telling.told(key, self._now)
        for task in changed:
            self.steps.append(Step(key=key, puts=(_refused(task, reason),)))

    def _tell_at(self, at: float) -> None:
        self.wakes[TELL] = min(at, self.wakes.get(TELL, at))


def _assignment(now: float, message: str) -> TaskStatus:
    """Return the status of tasks that are given a node; nothing has been observed of them before."""
    return TaskStatus(state=TaskState.ASSIGNED, timestamp=now, message=message, applied_at=now)


def _assigned(task: Task, placement: Placement, status: TaskStatus) -> Task:
    return _replace(task, status=status, node_id=placement.node, generic=placement.generic)


def _refused(task: Task, reason: str) -> Task:
    return _replace(task, status=_replace(task.status, message=PENDING, error=reason))
