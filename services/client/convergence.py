"""Has a service become what its spec says? Pure: fed with objects and changes, it tells how far the swarm has come.

Used by ``Services.progress`` and ``Services.wait``. What must stay true: it says CONVERGED only of tasks that run the template the
service has now, however old their spec version is (a change of replicas alone replaces no task).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec.structs import replace

from services.kit.model.ids import NodeId, ServiceId, SpecVersionId, TaskId, spec_version_id
from services.kit.model.objects import Object, Service, SpecVersion, Task
from services.kit.model.specs import Global, GlobalJob, Placement, Replicated, ReplicatedJob, TaskSpec
from services.kit.model.states import RestartCondition, TaskState, UpdateState
from services.kit.model.value import Value
from services.kit.state.transaction import Action


class Stage(StrEnum):
    """Where the swarm is on its way to the spec."""

    WORKING = "working"
    VERIFYING = "verifying"
    """All tasks run; watched for a while to see that they stay up."""
    CONVERGED = "converged"
    FAILED = "failed"
    """It will not get there by itself; ``message`` says why."""


class SlotProgress(Value, frozen=True, kw_only=True):
    """The task that stands for one slot (or, in a global service, one node)."""

    slot: int
    node_id: NodeId | None = None
    task_id: TaskId
    state: TaskState
    current: bool = True
    """False while the slot still holds the previous version of the template."""
    reason: str = ""
    """Why it is not running: the error, else the message of its status."""


class Progress(Value, frozen=True, kw_only=True):
    """How far a service has come."""

    service_id: ServiceId
    name: str
    stage: Stage
    done: int
    """Tasks that are as wanted: running, or complete for jobs."""
    desired: int
    slots: tuple[SlotProgress, ...] = ()
    message: str = ""

    @property
    def ended(self) -> bool:
        """True when nothing more is to be waited for."""
        return self.stage in {Stage.CONVERGED, Stage.FAILED}


_FAILED_UPDATES = {
    UpdateState.PAUSED: "the update is paused",
    UpdateState.ROLLBACK_PAUSED: "the rollback is paused",
    UpdateState.ROLLBACK_COMPLETED: "the update failed and was rolled back",
}
_UNDER_WAY = {UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED}


class Convergence:
    """What is known of one service and its tasks. ``rollback`` when going back is what was asked for."""

    def __init__(
        self, service: Service, tasks: Iterable[Task], specs: Iterable[SpecVersion], *, rollback: bool = False
    ) -> None:
        self._service = service
        self._tasks: dict[TaskId, Task] = {task.id: task for task in tasks}
        self._specs: dict[SpecVersionId, SpecVersion] = {spec.id: spec for spec in specs}
        self._rollback = rollback
        self._removed = False

    def absorb(self, action: str, thing: Object) -> None:
        """Take one change; what is older than what is known, or of another service, changes nothing."""
        removed = action == Action.REMOVE
        match thing:
            case Service() if thing.id == self._service.id:
                if removed:
                    self._removed = True
                elif thing.meta.version >= self._service.meta.version:
                    self._service = thing
            case Task() if thing.service_id == self._service.id:
                known = self._tasks.get(thing.id)
                if removed:
                    self._tasks.pop(thing.id, None)
                elif known is None or thing.meta.version >= known.meta.version:
                    self._tasks[thing.id] = thing
            case SpecVersion() if thing.service_id == self._service.id and not removed:
                self._specs[thing.id] = thing
            case _:
                pass

    def progress(self) -> Progress:
        """Return how far the service has come."""
        groups = self._groups()
        heads = tuple(group[0] for group in groups)
        done, desired = self._count(heads)
        stage, message = self._stage(heads, done, desired)
        return Progress(
            service_id=self._service.id,
            name=self._service.spec.annotations.name,
            stage=stage,
            done=done,
            desired=desired,
            slots=tuple(self._slot(group) for group in groups),
            message=message,
        )

    def _groups(self) -> tuple[tuple[Task, ...], ...]:
        """Return the tasks by slot, the one that stands for its slot first; slots of unwanted old tasks are left out."""
        by_slot: dict[tuple[int, str], list[Task]] = {}
        iteration = 0 if self._service.job_status is None else self._service.job_status.iteration
        for task in self._tasks.values():
            if not self._job or task.job_iteration == iteration:
                key = (task.slot, "" if task.slot else task.node_id or task.id)
                by_slot.setdefault(key, []).append(task)
        ordered = (sorted(by_slot[key], key=self._rank, reverse=True) for key in sorted(by_slot))
        return tuple(tuple(group) for group in ordered if self._job or _wanted(group[0]) or self._ended(group[0]))

    def _rank(self, task: Task) -> tuple[bool, bool, float, str]:
        return _wanted(task), self._current(task), task.meta.created_at, task.id

    def _slot(self, group: tuple[Task, ...]) -> SlotProgress:
        head = group[0]
        reason = ""
        if head.status.state != TaskState.RUNNING:
            errors = (task.status.error for task in group if task.status.error and self._current(task))
            reason = next(errors, "") or _telling(head.status.message)
        return SlotProgress(
            slot=head.slot,
            node_id=head.node_id,
            task_id=head.id,
            state=head.status.state,
            current=self._current(head),
            reason=reason,
        )

    def _count(self, heads: tuple[Task, ...]) -> tuple[int, int]:
        complete = sum(task.status.state == TaskState.COMPLETE for task in heads)
        there = sum(self._running(task) or self._finished(task) for task in heads)
        match self._service.spec.mode:
            case Replicated(replicas=replicas):
                return there, replicas
            case Global():
                return there, len(heads)
            case ReplicatedJob(total_completions=total):
                return complete, total
            case GlobalJob():
                return complete, len(heads)

    def _stage(self, heads: tuple[Task, ...], done: int, desired: int) -> tuple[Stage, str]:
        if self._removed:
            return Stage.FAILED, "the service was removed"
        update = self._service.update_status
        if update is not None and update.state in _FAILED_UPDATES and not self._as_asked(update.state):
            why = f": {update.message}" if update.message else ""
            return Stage.FAILED, _FAILED_UPDATES[update.state] + why
        for task in heads:
            if self._ended(task) and not self._finished(task):
                why = task.status.error or f"it ended {task.status.state.name.lower()}"
                return Stage.FAILED, f"a task failed and its restart policy does not replace it: {why}"
        if update is not None and update.state in _UNDER_WAY:
            return Stage.WORKING, update.message
        if not heads and isinstance(self._service.spec.mode, Global | GlobalJob):
            return Stage.WORKING, "waiting for the first task"
        if done == desired and (self._job or len(heads) == desired):
            return Stage.CONVERGED, ""
        return Stage.WORKING, ""

    @property
    def _job(self) -> bool:
        return isinstance(self._service.spec.mode, ReplicatedJob | GlobalJob)

    def _running(self, task: Task) -> bool:
        return task.status.state == TaskState.RUNNING and self._current(task)

    def _as_asked(self, state: UpdateState) -> bool:
        return self._rollback and state is UpdateState.ROLLBACK_COMPLETED

    def _current(self, task: Task) -> bool:
        if task.spec_version == self._service.spec_version:
            return True
        template = self._specs.get(spec_version_id(task.service_id, task.spec_version))
        spec = self._service.spec
        return template is not None and same_work(template.task, spec.task) and template.endpoint == spec.endpoint

    def _finished(self, task: Task) -> bool:
        return self._ended(task) and task.status.state == TaskState.COMPLETE

    def _ended(self, task: Task) -> bool:
        """Tell whether this task of an ordinary service has ended for good and nothing will come after it."""
        if self._job or not self._current(task):
            return False
        condition = self._service.spec.task.restart.condition
        state = task.status.state
        if condition is RestartCondition.NONE:
            return state in {TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED}
        return condition is RestartCondition.ON_FAILURE and state == TaskState.COMPLETE


def same_work(old: TaskSpec, new: TaskSpec) -> bool:
    """Tell whether tasks of both templates do the same: another placement or other credentials alone restart nothing."""
    return _work(old) == _work(new)


def _work(task: TaskSpec) -> TaskSpec:
    return replace(task, placement=Placement(), container=replace(task.container, registry_auth=""))


def _wanted(task: Task) -> bool:
    return task.desired_state <= TaskState.RUNNING


_ROUTINE = (
    "created",
    "scheduler assigned task to node",
    "accepted",
    "preparing",
    "prepared",
    "starting",
    "started",
    "pending task scheduling",
)


def _telling(message: str) -> str:
    """Return a status message unless it only repeats what its state says."""
    return "" if message.lower() in _ROUTINE else message
