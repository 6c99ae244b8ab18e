"""The scheduler: gives PENDING tasks a node (PENDING to ASSIGNED), or says in their status why there is none.

It keeps the index of the fleet (see ``core/fleet``) and feeds it with what the store says. A pass places at most so many tasks that
were stored before and comes back for the rest; tasks that this very pass has made are all placed, so that they are written once. What
waits is tried again when something changes that can help it. Steps carry the group (service, spec version) or the id of a task that was
made for a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from services.dispatcher.core.fleet.build import build
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.dispatcher.core.fleet.ledger import Placement
from services.dispatcher.core.picture import Key, Picture, Plan
from services.dispatcher.core.scheduling.kept import Kept
from services.dispatcher.core.scheduling.passes import ALL, TELL, Pass
from services.dispatcher.core.scheduling.waiting import group_key
from services.dispatcher.core.tasks import is_wanted
from services.kit.model.ids import ServiceId, TaskId
from services.kit.model.objects import Cluster, Node, SpecVersion, Task
from services.kit.model.specs import SchedulingConfig
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

_FAILED = frozenset({TaskState.FAILED, TaskState.REJECTED})


class Scheduler:
    """Places tasks on the fleet."""

    name = "schedule"
    tables = frozenset({Table.CLUSTER, Table.NODE, Table.TASK, Table.SPEC})

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        """Decides which of equal nodes is chosen."""
        self._settings = SchedulingConfig()
        self.kept = Kept(Fleet(seed))

    # -- what comes in

    def begin(self, view: Picture) -> Iterable[Key]:
        """Count what is placed, collect what waits."""
        self._settings = SchedulingConfig()
        self.kept = Kept(build(self._seed, [view.nodes[node_id] for node_id in sorted(view.nodes)]))
        self._take_settings(view.cluster)
        for task in sorted(view.tasks.values(), key=attrgetter("service_id", "slot", "id")):
            self._take_in(view, task)
        return (ALL,)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """New tasks to place, and a second chance for those that wait."""
        match event.object:
            case Task() if self.kept.placed.pop(event.object.id, None) is event.new is not None:
                self._forget(event.object)  # this very pass has given it its place, and nothing else has changed
                return (TELL,) if self.kept.queue.has_blocked and self.kept.telling.ask_round() else ()
            case Task():
                self._notice_task(view, event, event.object)
            case Node() if event.new is None:
                self.kept.fleet.drop(event.object.id)
            case Node():
                self.kept.fleet.put(event.object)
            case Cluster():
                self._take_settings(event.object)
            case SpecVersion():
                self._notice_spec(event.object, gone=event.new is None)
            case _:
                pass
        tells = self.kept.queue.has_blocked and self.kept.telling.ask_round()
        return (*((ALL,) if self._has_work else ()), *((TELL,) if tells else ()))

    @property
    def _has_work(self) -> bool:
        if self.kept.queue.has_ready or self.kept.waiting.has_confirmable:
            return True
        return bool(self.kept.fleet.improved) and (
            self.kept.queue.has_blocked or any(True for _ in self.kept.waiting.nodes())
        )

    def _take_settings(self, cluster: Cluster | None) -> None:
        if cluster is None or cluster.spec.scheduling == self._settings:
            return
        self._settings = cluster.spec.scheduling
        self.kept.fleet.promise(self._settings.cpu_overcommit, self._settings.memory_overcommit)
        for groups in self.kept.queue.blocked():
            for group in groups:
                self.kept.queue.ready(group)

    def _notice_spec(self, spec: SpecVersion, *, gone: bool) -> None:
        key = (spec.service_id, spec.version)
        if gone:
            self.kept.groups.pop(key, None)
            self.kept.fleet.failures.forget_group(key)

    def _notice_task(self, view: Picture, event: Event, task: Task) -> None:
        if event.new is None or task.status.state.terminal:
            self.kept.evictions.ended(task.id)
        if event.new is None:
            self._forget(task)
            self.kept.ledger.release(task.id)
            return
        old = event.old
        if isinstance(old, Task) and task.status.state in _FAILED and old.status.state not in _FAILED and task.slot:
            row = None if task.node_id is None else self.kept.fleet.row_of.get(task.node_id)
            if row is not None:
                self.kept.fleet.failures.add(group_key(task), row, task.status.applied_at)
        self._take_in(view, task)

    def _take_in(self, view: Picture, task: Task) -> None:
        """File a task where it belongs now."""
        if task.status.state is TaskState.PENDING and task.desired_state <= TaskState.COMPLETE:
            if self.kept.waiting.add(task):
                self.kept.ledger.release(task.id)
                self._let_try(view, task)
            return
        self._forget(task)
        if task.node_id is None or not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
            self.kept.ledger.release(task.id)
            return
        group = self.kept.group(view, group_key(task))
        if group is not None:
            counted = task.desired_state <= TaskState.COMPLETE
            self.kept.ledger.hold(task.id, group, Placement(task.node_id, task.generic), counted=counted)

    def _let_try(self, view: Picture, task: Task) -> None:
        if task.node_id is not None:
            return
        key = group_key(task)
        if not self.kept.queue.is_ready(key):
            group = self.kept.group(view, key)
            if group is None:
                return
            self.kept.queue.ready(group)
        if not task.meta.version:
            self.kept.made_now.add(key)

    def _forget(self, task: Task) -> None:
        if self.kept.waiting.discard(task):
            key = group_key(task)
            self.kept.queue.forget(key)
            self.kept.telling.forget(key)

    # -- what goes out

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Place tasks made for a node first, then group by group."""
        self.kept.placed.clear()
        for key in keys:
            self._retry(view, key)
        self._wake()
        work = Pass(self.kept, view, now)
        work.confirm()
        work.place()
        freed = self.kept.evictions.settle(self._waits)
        self.kept.fleet.improved |= freed & self.kept.fleet.known
        work.make_room()
        if TELL in keys:
            work.tell()
        self.kept.made_now.clear()
        if self._has_work:
            work.wakes[ALL] = now
        return Plan(steps=work.steps, wakes=work.wakes)

    def _retry(self, view: Picture, key: Key) -> None:
        """Take back placements and evictions that could not be written."""
        if isinstance(key, str):
            if key not in {ALL, TELL}:
                self.kept.ledger.release(TaskId(key))
                self.kept.waiting.retry(TaskId(key))
            return
        group = self.kept.group(view, (ServiceId(key[0]), int(key[1])))
        if group is not None and self.kept.waiting.count(group.key):
            for task in self.kept.waiting.of(group.key):
                self.kept.ledger.release(task)
            for victim in self.kept.evictions.victims_for(group):
                if victim not in view.tasks or is_wanted(view.tasks[victim]):
                    self.kept.evictions.ended(victim)
            self.kept.queue.ready(group)

    def _waits(self, group: Group) -> bool:
        """Tell whether a task of a group has no place."""
        return any(task not in self.kept.ledger.entries for task in self.kept.waiting.of(group.key))

    def _wake(self) -> None:
        """Give a try to what fits on rows that have improved."""
        improved = self.kept.fleet.improved
        self.kept.fleet.improved = 0
        self.kept.queue.wake(improved)
        for node in list(self.kept.waiting.nodes()) if improved else ():
            row = self.kept.fleet.row_of.get(node)
            if row is not None and improved >> row & 1:
                self.kept.waiting.retry_on(node)
