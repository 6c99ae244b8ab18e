"""Updates: rolls a service's slots over to its current spec, a few at a time. Keys are service ids.

Nothing is remembered: which slots are done, under way or failed is read from their tasks. A slot under way (its new task not RUNNING
yet, or RUNNING for less than the delay) occupies one of ``parallelism`` places. Too many early failures pause the update or roll it
back; once every slot is done and the monitor time has passed, it is complete. Restarting what fails meanwhile is the restart loop's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from services.dispatcher.core.beside import has_room_beside
from services.dispatcher.core.dirty import Cleanliness
from services.dispatcher.core.picture import Key, Picture, Plan, SlotKey, Step
from services.dispatcher.core.specs import roll_back, stored_spec
from services.dispatcher.core.tasks import (
    NewId,
    ended_at,
    is_global,
    is_job,
    is_over,
    is_wanted,
    may_restart,
    new_task,
    restart_delay,
    restart_policy,
    wanted,
)
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.objects import Service, Task, UpdateStatus
from services.kit.model.specs import UpdateConfig
from services.kit.model.states import Availability, FailureAction, NodeState, TaskState, UpdateOrder, UpdateState
from services.kit.state.state import Event
from services.kit.state.tables import Table

RUNNING_STATES = frozenset({UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED})
IN_PROGRESS = "update in progress"
CRAMPED = "update in progress; no node may run a new task beside the old ones, so slots stop before they start"
PAUSED_STATES = frozenset({UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED})

_replace = msgspec.structs.replace


@dataclass(slots=True)
class _Progress:
    """What the slots of a service say about its update."""

    todo: list[tuple[SlotKey, list[Task]]] = field(default_factory=list)
    """Slots to roll over, with the tasks to replace."""
    again: list[tuple[float, SlotKey]] = field(default_factory=list)
    """Slots whose new task failed beside the old one, and when to try again; they hold no other slot up."""
    finish: list[Task] = field(default_factory=list)
    """Old tasks whose slot has a running new one."""
    half_done: bool = False
    """Some slot still has old tasks beside a new one that is on its way."""
    under_way: int = 0
    """Slots with a new task that is not RUNNING yet."""
    retried: int = 0
    """Those of them whose first new task failed; they hold no other slot up either."""
    unplaced: list[list[Task]] = field(default_factory=list)
    """Old tasks of those whose new task has no node yet."""
    resting_until: list[float] = field(default_factory=list)
    """Ends of the delays of slots that were just done, or of failed starts."""
    failed: list[Task] = field(default_factory=list)
    touched: int = 0
    """Slots that the update has dealt with so far."""
    last_done: float = 0.0
    is_cramped: bool = False
    """No node may run a new task beside the old ones: one slot after the other stops first, whatever the order asked for."""


class Update:
    """The updater."""

    name = "update"
    tables = frozenset({Table.SERVICE, Table.TASK})

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._running: set[ServiceId] = set()

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all services."""
        self._running = {service.id for service in view.services.values() if _is_running(service)}
        return list(view.services)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A service that changed, and any task of one that is being updated."""
        thing = event.object
        if isinstance(thing, Task):
            return (thing.service_id,) if thing.service_id in self._running else ()
        assert isinstance(thing, Service)
        if event.new is not None and _is_running(thing):
            self._running.add(thing.id)
        else:
            self._running.discard(thing.id)
        return (thing.id,) if event.old is not None and event.new is not None else ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Take each update as far as it can go now."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        for key in keys:
            service = view.services.get(ServiceId(str(key)))
            if service is None or is_job(service.spec):
                continue
            status = service.update_status
            if status is not None and status.state in PAUSED_STATES:
                continue
            progress = self._look(view, service, now)
            if not _is_running(service):
                # A change of the service forgets where its update stood, not what it has begun.
                if progress.todo or progress.finish or progress.half_done:
                    started = UpdateStatus(state=UpdateState.UPDATING, started_at=now, message=IN_PROGRESS)
                    steps.append(Step(key=key, puts=(_replace(service, update_status=started),)))
                continue
            if progress.is_cramped and service.update_status.message != CRAMPED:  # type: ignore[union-attr]
                steps.append(_told(service, CRAMPED))
                continue
            verdict = self._judge(view, service, progress, now)
            if verdict is not None:
                steps.append(verdict)
                continue
            steps += self._advance(service, progress, now)
            wake = self._next_wake(service, progress, now)
            if wake is not None:
                wakes[key] = wake
        return Plan(steps=steps, wakes=wakes)

    # -- reading the slots

    def _look(self, view: Picture, service: Service, now: float) -> _Progress:
        progress = _Progress()
        clean = Cleanliness(view, service)
        started = now if service.update_status is None else service.update_status.started_at
        config = _config(service)
        slots = view.slots_of(service.id)
        for slot in sorted(slots, key=lambda key: (isinstance(key, str), key)):
            tasks = list(slots[slot].values())
            if is_global(service.spec) and not _may_change(view, slot):
                progress.under_way += any(_is_on_its_way(task, clean) for task in tasks)
                continue
            mine = [
                task
                for task in tasks
                if task.spec_version == service.spec_version and (task.meta.created_at or now) >= started
            ]
            progress.touched += bool(mine)
            progress.failed += (task for task in mine if _failed_early(task, config))
            self._sort_slot(view, progress, clean, service, slot, tasks, mine, now)
        is_stuck = progress.unplaced and not progress.finish and progress.under_way == len(progress.unplaced)
        if is_stuck and _is_running(service) and not has_room_beside(view, service):
            progress.is_cramped = True
            progress.finish += progress.unplaced[0]
        return progress

    def _sort_slot(
        self,
        view: Picture,
        progress: _Progress,
        clean: Cleanliness,
        service: Service,
        slot: SlotKey,
        tasks: list[Task],
        mine: list[Task],
        now: float,
    ) -> None:
        """Find out where one slot stands."""
        config = _config(service)
        live = [task for task in tasks if is_wanted(task)]
        has_failed = any(task.status.state.terminal for task in mine)
        if has_failed:
            progress.last_done = max(progress.last_done, ended_at(mine[-1]))
        good = [task for task in live if clean.is_clean(task)]
        old = [task for task in live if not clean.is_clean(task)]
        if good:
            best = max(good, key=lambda task: (task.status.state, task.desired_state))
            if best.status.state < TaskState.RUNNING:
                # Also when the service was changed anew meanwhile, and whatever is left of the task before.
                progress.under_way += 1
                progress.half_done |= bool(old)
                progress.finish += _superseded(old)
                progress.retried += has_failed
                if old and best in mine and best.status.state < TaskState.ASSIGNED:
                    progress.unplaced.append(old)
            else:
                progress.finish += old
                if best in mine:
                    done = best.status.applied_at or now
                    progress.last_done = max(progress.last_done, done)
                    progress.resting_until.append(done + config.delay_s)
            return
        if not live:
            last = tasks[-1]
            if last.desired_state is not TaskState.SHUTDOWN or clean.is_clean(last):
                return
        if mine:
            # A new task failed while the old one was kept (start first): it is tried again as its restart policy says.
            last = mine[-1]
            if not may_restart(view, last, tasks, now):
                return
            again_at = ended_at(last) + restart_delay(restart_policy(view, last), last)
            progress.again.append((again_at, slot))
            return
        progress.todo.append((slot, old))

    # -- deciding

    def _judge(self, view: Picture, service: Service, progress: _Progress, now: float) -> Step | None:
        """Return the step that ends or turns the update, if it is time for one."""
        status, config = service.update_status, _config(service)
        assert status is not None
        total = progress.touched + len(progress.todo)
        if (
            _action(service) is not FailureAction.CONTINUE
            and total
            and len(progress.failed) / total > config.max_failure_ratio
        ):
            return _react(view, service, progress.failed[-1], now)
        busy = progress.todo or progress.again or progress.finish or progress.under_way > progress.retried
        if busy or now < self._complete_at(service, progress):
            return None
        rolled_back = status.state is UpdateState.ROLLBACK_STARTED
        done = _replace(
            status,
            state=UpdateState.ROLLBACK_COMPLETED if rolled_back else UpdateState.COMPLETED,
            message="rollback completed" if rolled_back else "update completed",
            completed_at=now,
        )
        return Step(key=service.id, puts=(_replace(service, update_status=done),))

    def _complete_at(self, service: Service, progress: _Progress) -> float:
        config = _config(service)
        if not progress.touched:
            return 0.0
        monitor_s = config.monitor_s if config.delay_s < config.monitor_s else config.delay_s + 1.0
        return max([progress.last_done + monitor_s, *progress.resting_until])

    def _advance(self, service: Service, progress: _Progress, now: float) -> Iterable[Step]:
        config = _config(service)
        for task in progress.finish:
            yield Step(key=service.id, puts=(wanted(task, TaskState.SHUTDOWN),))
        resting = sum(until > now for until in progress.resting_until)
        for again_at, slot in progress.again:
            if again_at <= now:
                yield Step(key=service.id, puts=(new_task(service, slot, self._new_id(), now),))
        at_work = progress.under_way - progress.retried + resting
        room = len(progress.todo) if config.parallelism == 0 else config.parallelism - at_work
        for slot, old in progress.todo[: max(0, room)]:
            if config.order is UpdateOrder.START_FIRST and old:
                yield Step(key=service.id, puts=(new_task(service, slot, self._new_id(), now),))
                continue
            desired = None if all(is_over(task) for task in old) else TaskState.READY
            fresh = new_task(service, slot, self._new_id(), now, desired=desired)
            yield Step(key=service.id, puts=(*(wanted(task, TaskState.SHUTDOWN) for task in old), fresh))

    def _next_wake(self, service: Service, progress: _Progress, now: float) -> float | None:
        ends = [until for until in (*progress.resting_until, *(at for at, _ in progress.again)) if until > now]
        if not (progress.todo or progress.again or progress.finish or progress.under_way > progress.retried):
            ends.append(self._complete_at(service, progress))
        return min(ends, default=None)


def _superseded(old: list[Task]) -> list[Task]:
    """Return those of a slot's old tasks that nobody needs until the new one runs: all but the newest that runs.

    Updates that follow each other quickly where there is little room would else keep what each has begun, and wait for one another.
    """
    running = [task for task in old if task.status.state is TaskState.RUNNING]
    kept = max(running, key=lambda task: task.spec_version, default=None)
    return [task for task in old if task is not kept]


def _is_running(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state in RUNNING_STATES


def _config(service: Service) -> UpdateConfig:
    status = service.update_status
    rolling_back = status is not None and status.state is UpdateState.ROLLBACK_STARTED
    return service.spec.rollback if rolling_back else service.spec.update


def _action(service: Service) -> FailureAction:
    """Return what too many failures lead to."""
    status = service.update_status
    if status is not None and status.on_failure is not None:
        return status.on_failure
    return _config(service).failure_action


def _told(service: Service, message: str) -> Step:
    """Return the step that says how an update goes on."""
    assert service.update_status is not None
    return Step(
        key=service.id, puts=(_replace(service, update_status=_replace(service.update_status, message=message)),)
    )


def _may_change(view: Picture, slot: SlotKey) -> bool:
    """Tell whether a global service's task on a node may be replaced now; a paused or lost node is left alone."""
    node = view.nodes.get(NodeId(str(slot)))
    return (
        node is not None
        and node.spec.availability is Availability.ACTIVE
        and node.status.state in {NodeState.READY, NodeState.UNKNOWN, NodeState.DISCONNECTED}
    )


def _is_on_its_way(task: Task, clean: Cleanliness) -> bool:
    return is_wanted(task) and task.status.state < TaskState.RUNNING and clean.is_clean(task)


def _failed_early(task: Task, config: UpdateConfig) -> bool:
    ended_badly = task.status.state > TaskState.RUNNING and task.status.state not in {
        TaskState.SHUTDOWN,
        TaskState.ORPHANED,
    }
    return ended_badly and task.status.ran_s <= config.monitor_s


def _react(view: Picture, service: Service, task: Task, now: float) -> Step:
    """Return the step for an update with too many failures."""
    status = service.update_status
    assert status is not None
    cause = f"due to failure or early termination of task {task.id}"
    rolling_back = status.state is UpdateState.ROLLBACK_STARTED
    if rolling_back:
        turned = _replace(status, state=UpdateState.ROLLBACK_PAUSED, message=f"rollback paused {cause}")
    elif _action(service) is FailureAction.ROLLBACK and service.previous_spec is not None:
        restored = roll_back(service, keep_previous=False)
        begun = UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_at=now, message=f"update rolled back {cause}")
        puts: tuple[Service | object, ...] = (_replace(restored, update_status=begun),)
        template = stored_spec(view, restored)
        return Step(key=service.id, puts=(*puts, *(() if template is None else (template,))))  # type: ignore[arg-type]
    else:
        turned = _replace(status, state=UpdateState.PAUSED, message=f"update paused {cause}")
    return Step(key=service.id, puts=(_replace(service, update_status=turned),))
