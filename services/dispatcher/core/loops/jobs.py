"""Jobs: tasks that run to completion, so many in all and at once, or one on every node that fits. Keys are service ids.

A job runs in iterations: tasks of an earlier one are given up (unless its schedule lets runs overlap), and the tasks of the latest few
iterations are kept to look at. Which slots are done, at work or lost for good is read from their tasks; replacing what failed is
the restart loop's. What must stay true: never more completions and live tasks than asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from services.dispatcher.core.picture import Key, Picture, Plan, SlotKey, Step
from services.dispatcher.core.tasks import NewId, is_job, is_wanted, iteration_of, may_restart, new_task, wanted
from services.kit.model.constraints import parse_constraints, satisfies
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Node, Service, Task
from services.kit.model.specs import CronSchedule, GlobalJob, OrchestrationConfig, ReplicatedJob
from services.kit.model.states import Availability, NodeState, Overlap, TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

Slot = Mapping[TaskId, Task]
DEFAULT_RUNS = OrchestrationConfig().task_history_retention_limit


class Jobs:
    """The orchestrator of jobs."""

    name = "jobs"
    tables = frozenset({Table.SERVICE, Table.TASK, Table.NODE, Table.CLUSTER})

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._jobs: dict[ServiceId, None] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all jobs."""
        self._jobs = {service.id: None for service in view.services.values() if is_job(service.spec)}
        return list(self._jobs)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A job that changed, a task of one that is over or gone, and every global job when a node changed."""
        thing = event.object
        if isinstance(thing, Service):
            if event.new is None or not is_job(thing.spec):
                self._jobs.pop(thing.id, None)
                return ()
            self._jobs[thing.id] = None
            return (thing.id,)
        if isinstance(thing, Task):
            over = event.new is None or thing.status.state.terminal or not is_wanted(thing)
            return (thing.service_id,) if over and thing.service_id in self._jobs else ()
        return tuple(self._jobs)

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Give up earlier runs, start what is missing of the current one."""
        steps: list[Step] = []
        for key in keys:
            service = view.services.get(ServiceId(str(key)))
            if service is None or not is_job(service.spec):
                continue
            steps += self._give_up_old(view, service)
            if schedule_of(service) is not None and iteration_of(service) == 0:
                continue  # its first run is not due yet
            if isinstance(service.spec.mode, ReplicatedJob):
                steps += self._fill(view, service, service.spec.mode, now)
            else:
                steps += self._cover(view, service, now)
        return Plan(steps=steps)

    def _give_up_old(self, view: Picture, service: Service) -> Iterable[Step]:
        iteration, keep = iteration_of(service), _runs_kept(view, service)
        schedule = schedule_of(service)
        overlaps = schedule is not None and schedule.overlap is Overlap.ALLOW
        for slot in view.slots_of(service.id).values():
            for task in slot.values():
                if task.job_iteration >= iteration or task.desired_state >= TaskState.REMOVE:
                    continue
                live = not task.status.state.terminal
                forgotten = keep >= 0 and task.job_iteration <= iteration - max(keep, 1)
                if (live and not overlaps) or (not live and forgotten):
                    yield Step(key=service.id, puts=(wanted(task, TaskState.REMOVE),))

    def _fill(self, view: Picture, service: Service, mode: ReplicatedJob, now: float) -> Iterable[Step]:
        """Start tasks of a replicated job in the lowest slots that are neither done, nor at work, nor lost."""
        states = {key: slot_state(view, service, slot, now) for key, slot in view.slots_of(service.id).items()}
        done = sum(state == DONE for state in states.values())
        live = sum(state == LIVE for state in states.values())
        room = min(mode.max_concurrent - live, mode.total_completions - done - live)
        free = (n for n in range(1, mode.total_completions + 1) if states.get(n, FREE) == FREE)
        for number in islice(free, max(0, room)):
            yield Step(key=service.id, puts=(new_task(service, number, self._new_id(), now),))

    def _cover(self, view: Picture, service: Service, now: float) -> Iterable[Step]:
        """Start a task of a global job on every node that fits and has none."""
        constraints = parse_constraints(service.spec.task.placement.constraints)
        slots = view.slots_of(service.id)
        for node in view.nodes.values():
            slot = slots.get(node.id, {})
            if _fits(node) and satisfies(node, constraints) and slot_state(view, service, slot, now) == FREE:
                yield Step(key=service.id, puts=(new_task(service, node.id, self._new_id(), now),))
        for key, slot in slots.items():
            home = view.nodes.get(NodeId(str(key)))
            if home is not None and satisfies(home, constraints):
                continue
            for task in slot.values():
                if is_wanted(task) and not task.status.state.terminal:
                    yield Step(key=service.id, puts=(wanted(task, TaskState.SHUTDOWN),))


FREE, LIVE, DONE, LOST = "free", "live", "done", "lost"


def slot_state(view: Picture, service: Service, slot: Slot, now: float) -> str:
    """Return where a slot stands in the job's current iteration: free, live, done, or lost (failed, and not to be tried again)."""
    tasks = [task for task in slot.values() if task.job_iteration == iteration_of(service)]
    if any(task.status.state is TaskState.COMPLETE for task in tasks):
        return DONE
    if any(is_wanted(task) for task in tasks):
        return LIVE  # running, or failed and about to be restarted
    if not tasks or tasks[-1].status.state not in {TaskState.FAILED, TaskState.REJECTED}:
        return FREE  # what is being shut down, or lost its node, does not count
    return FREE if may_restart(view, tasks[-1], tasks, now) else LOST


def is_running(view: Picture, service: Service) -> bool:
    """Tell whether any task of the job's current run is still to come or at work."""
    slots: Mapping[SlotKey, Slot] = view.slots_of(service.id)
    return any(
        is_wanted(task) and task.status.state is not TaskState.COMPLETE and task.job_iteration == iteration_of(service)
        for slot in slots.values()
        for task in slot.values()
    )


def schedule_of(service: Service) -> CronSchedule | None:
    """Return a job's schedule, None when it has none or is no job."""
    mode = service.spec.mode
    return mode.schedule if isinstance(mode, ReplicatedJob | GlobalJob) else None


def _runs_kept(view: Picture, service: Service) -> int:
    schedule = schedule_of(service)
    if schedule is not None:
        return schedule.keep_last
    cluster = view.cluster
    return DEFAULT_RUNS if cluster is None else cluster.spec.orchestration.task_history_retention_limit


def _fits(node: Node) -> bool:
    return node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE
