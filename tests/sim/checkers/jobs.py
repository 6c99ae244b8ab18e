"""Jobs and scheduled runs happen exactly once: a slot that has its completion never gets another task, and each due time begins one run.

A new spec of a scheduled job is for its next run: the present one may go on as it began. A node that is cut off may finish a task that was given up meanwhile; that is no second run of ours, and nobody can prevent it.
"""

from __future__ import annotations

from services.kit.model.ids import ServiceId
from services.kit.model.objects import Service, Task
from services.kit.model.specs import GlobalJob, ReplicatedJob
from services.kit.model.states import TaskState
from services.kit.state.state import State
from tests.sim.promise import Checker
from tests.sim.reference import Commit

MINUTE_S = 60.0


class Jobs(Checker):
    """Looks at each beginning of a run and at each new task of a job."""

    promise = "jobs and scheduled runs happen exactly once"

    def __init__(self) -> None:
        self._most: dict[tuple[ServiceId, int], tuple[int, int]] = {}
        """By run: completions and tasks at once, as many as any spec allowed while it was the present one."""

    def committed(self, commit: Commit) -> None:
        """Look at what has begun."""
        begun = [event.new for event in commit.events if event.old is None and isinstance(event.new, Task)]
        for event in commit.events:
            if isinstance(event.old, Service) and isinstance(event.new, Service) and is_job(event.new):
                self._compare(event.old, event.new)
            if isinstance(event.new, Service):
                self._allow(event.new)
        for task in begun:
            service = commit.state.services.get(task.service_id)
            if service is not None and is_job(service):
                self._look(commit.state, service, task)

    def _compare(self, old: Service, new: Service) -> None:
        before, after = old.job_status, new.job_status
        if before == after or after is None:
            return
        iteration = 0 if before is None else before.iteration
        last = 0.0 if before is None else before.last_execution
        if after.iteration != iteration + 1:
            raise self.broken(f"job {new.id} went from run {iteration} to {after.iteration}")
        mode = new.spec.mode
        assert isinstance(mode, ReplicatedJob | GlobalJob)
        if mode.schedule is not None and old.spec_version == new.spec_version:
            if after.last_execution <= last:
                raise self.broken(f"job {new.id} began the run due at {after.last_execution:.0f} after {last:.0f}")
            if after.last_execution % MINUTE_S:
                raise self.broken(
                    f"job {new.id} began a run at {after.last_execution}, which is no time of its schedule"
                )

    def _allow(self, service: Service) -> None:
        mode = service.spec.mode
        if isinstance(mode, ReplicatedJob) and service.job_status is not None:
            run = service.id, service.job_status.iteration
            completions, at_once = self._most.get(run, (0, 0))
            self._most[run] = max(completions, mode.total_completions), max(at_once, mode.max_concurrent)

    def _look(self, state: State, service: Service, task: Task) -> None:
        mode = service.spec.mode
        current = [
            other
            for other in state.tasks_of_service(service.id).values()
            if other.job_iteration == task.job_iteration and other.id != task.id
        ]
        for other in current:
            if other.slot == task.slot and other.status.state is TaskState.COMPLETE:
                raise self.broken(
                    f"slot {task.slot} of job {service.id} was done by {other.id} and is done again by {task.id}"
                )
        is_present = service.job_status is not None and task.job_iteration == service.job_status.iteration
        if not isinstance(mode, ReplicatedJob) or not is_present:
            return  # a task of a run before may cross with the change that began another
        completions, at_once = self._most[service.id, task.job_iteration]
        if task.slot > completions:
            raise self.broken(f"job {service.id} has a task in slot {task.slot} of {completions}")
        live = [other.id for other in (*current, task) if is_live(other)]
        if len(live) > at_once:
            raise self.broken(f"job {service.id} runs {', '.join(live)} at once, {at_once} are allowed")


def is_job(service: Service) -> bool:
    """Tell whether a service's tasks are meant to end."""
    return isinstance(service.spec.mode, ReplicatedJob | GlobalJob)


def is_live(task: Task) -> bool:
    """Tell whether a task is meant to run and has not ended."""
    return task.desired_state <= TaskState.COMPLETE and not task.status.state.terminal
