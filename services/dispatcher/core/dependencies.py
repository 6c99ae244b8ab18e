"""Dependencies between services: what a service still waits for, and whether services wait for one another in a circle.

Read by the allocator, which lets tasks on, by the control API, which refuses circles, and by ``why``.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.dispatcher.core.tasks import is_wanted, iteration_of
from services.kit.model.objects import Service, Task
from services.kit.model.specs import (
    Dependency,
    Global,
    GlobalJob,
    Replicated,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
)
from services.kit.model.states import DependencyCondition, TaskState
from services.kit.state.view import View

WAITING = "waiting for "


def unmet(view: View, service: Service) -> list[str]:
    """Return what a service waits for, each in words; nothing when its tasks may be placed."""
    return [words for each in service.spec.depends_on if (words := _missing(view, each))]


def circle(view: View, spec: ServiceSpec) -> tuple[str, ...]:
    """Return the names of services that would wait for one another in a circle through this spec, nothing when there is none."""
    start = spec.annotations.name.lower()

    def walk(name: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        service = None if name == start else view.service_named(name)
        depends_on = spec.depends_on if name == start else (() if service is None else service.spec.depends_on)
        for dependency in depends_on:
            following = dependency.service.lower()
            if following == start:
                yield (*path, start)
            elif following not in path:
                yield from walk(following, (*path, following))

    return next(walk(start, (start,)), ())


def _missing(view: View, dependency: Dependency) -> str:
    name = dependency.service
    service = view.service_named(name)
    if service is None:
        return f"service {name} to exist"
    tasks = [task for task in view.tasks_of_service(service.id).values() if task.job_iteration == iteration_of(service)]
    match dependency.condition:
        case DependencyCondition.COMPLETED:
            return _missing_completions(service, tasks)
        case DependencyCondition.HEALTHY:
            return _missing_tasks(service, tasks, TaskState.RUNNING, "be running and healthy")
        case DependencyCondition.STARTED:
            return _missing_tasks(service, tasks, TaskState.STARTING, "start")


def _missing_tasks(service: Service, tasks: list[Task], least: TaskState, what: str) -> str:
    """A job's task that is complete was started and healthy before."""
    there = sum(
        is_wanted(task) and (least <= task.status.state <= TaskState.RUNNING or task.status.state is TaskState.COMPLETE)
        for task in tasks
    )
    needed = _expected(service.spec.mode, tasks)
    if there >= needed and (there or (needed == 0 and isinstance(service.spec.mode, Replicated))):
        return ""
    return f"service {service.spec.annotations.name} to {what}"


def _missing_completions(service: Service, tasks: list[Task]) -> str:
    name = service.spec.annotations.name
    done = sum(task.status.state is TaskState.COMPLETE for task in tasks)
    match service.spec.mode:
        case ReplicatedJob(total_completions=total):
            return "" if done >= total else f"service {name} to complete"
        case GlobalJob():
            open_ones = sum(is_wanted(task) and task.status.state is not TaskState.COMPLETE for task in tasks)
            return "" if done and not open_ones else f"service {name} to complete"
        case _:
            return f"service {name} to complete, which it never does: it is no job"


def _expected(mode: ServiceMode, tasks: list[Task]) -> int:
    match mode:
        case Replicated(replicas=replicas):
            return replicas
        case ReplicatedJob(max_concurrent=most, total_completions=total):
            return min(most, total)
        case Global() | GlobalJob():
            return sum(is_wanted(task) for task in tasks)
