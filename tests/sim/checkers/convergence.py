"""When faults stop the swarm converges: everybody is there, and what is wanted runs. Asked again and again during the heal phase."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from services.kit.model.cron import parse_cron
from services.kit.model.ids import TaskId
from services.kit.model.objects import Service, Task
from services.kit.model.specs import Global, Replicated, ReplicatedJob
from services.kit.model.states import Availability, NodeState, TaskState
from services.kit.state.state import State
from tests.sim.checkers.jobs import is_job
from tests.sim.checkers.placement import running_tasks
from tests.sim.checkers.reservations import reserved
from tests.sim.specs import FLAKY
from tests.sim.world import World

PROMISE = "the swarm converges when faults stop"
DUE_WITHIN_S = 3.0
"""How late a scheduled run may begin in quiet times."""


def missing(world: World, index: int) -> list[str]:
    """Return what keeps the swarm from being as it should be; empty when nothing does.

    ``index`` is that of an entry which was committed a moment ago: every member must have applied it.
    """
    state = world.reference.state
    found = _managers(world, index) + _nodes(world, state) + _roles(world, state)
    running: dict[TaskId, str] = {
        task_id: node.name for node in world.nodes.values() if not node.removed for task_id in running_tasks(node)
    }
    for service in state.services.values():
        if FLAKY in service.spec.annotations.labels:
            continue
        found += _job(world, state, service) if is_job(service) else _service(state, service, running)
    found += [
        f"{where} runs task {task_id}, which nobody wants"
        for task_id, where in running.items()
        if task_id not in state.tasks or state.tasks[task_id].desired_state > TaskState.COMPLETE
    ]
    return found + _routes(world, state)


def _managers(world: World, index: int) -> list[str]:
    if world.leader() is None:
        return ["no manager leads"]
    found = []
    for node in world.managers:
        member = world.member(node)
        if member is None or member.machine.applied_index < index:
            found.append(f"{node.name} has not applied everything")
    return found


def _roles(world: World, state: State) -> list[str]:
    """Every node is what it shall be, and the managers are the members."""
    found = []
    for node in world.nodes.values():
        known = state.nodes.get(node.node_id)
        if known is None:
            if node.node_id and not node.removed:
                found.append(f"{node.name} was removed and goes on")
        elif not known.spec.desired_role is known.role is node.role:
            found.append(f"{node.name} is a {node.role}, observed {known.role}, shall be a {known.spec.desired_role}")
    managers = {node.node_id for node in world.managers}
    if managers != world.reference.members:
        found.append(f"the managers are {sorted(managers)}, the members {sorted(world.reference.members)}")
    return found


def _job(world: World, state: State, service: Service) -> list[str]:
    """A job's current run has all of its completions, and a run that is due has begun."""
    name = service.spec.annotations.name
    mode = service.spec.mode
    assert isinstance(mode, ReplicatedJob), "users make no other jobs"
    status = service.job_status
    iteration = 0 if status is None else status.iteration
    leader = world.leader()
    if mode.schedule is not None and leader is not None:
        now = leader.clock.wall()
        due = parse_cron(mode.schedule.cron).last_before(now - DUE_WITHIN_S, service.meta.created_at, ZoneInfo("UTC"))
        if due is not None and (status is None or status.last_execution < due):
            return [f"the run of {name} that was due at {due:.0f} has not begun"]
        if not iteration:
            return []
    tasks = [task for task in state.tasks_of_service(service.id).values() if task.job_iteration == iteration]
    done = {task.slot for task in tasks if task.status.state is TaskState.COMPLETE}
    if len(done) < mode.total_completions and not any(_has_no_room(state, task) for task in tasks):
        return [f"job {name} has {len(done)} completions, {mode.total_completions} are wanted"]
    return []


def _nodes(world: World, state: State) -> list[str]:
    found = []
    for node in world.nodes.values():
        known = state.nodes.get(node.node_id)
        if not node.removed and (known is None or known.status.state is not NodeState.READY):
            found.append(f"{node.name} is {'unknown' if known is None else known.status.state.name}")
    return found


def _service(state: State, service: Service, running: dict[TaskId, str]) -> list[str]:
    name = service.spec.annotations.name
    wanted = [
        task
        for task in state.tasks_of_service(service.id).values()
        if task.desired_state <= TaskState.RUNNING and not task.status.state.terminal
    ]
    found = [
        f"task {task.id} of {name} is {task.status.state.name}"
        for task in wanted
        if (task.status.state is not TaskState.RUNNING or task.id not in running) and not _has_no_room(state, task)
    ]
    found += [f"task {task.id} of {name} is on a drained node" for task in wanted if _is_drained(state, task)]
    if isinstance(service.spec.mode, Replicated) and not _has_each_slot_once(state, wanted, service.spec.mode.replicas):
        found.append(f"{name} has {len(wanted)} tasks, {service.spec.mode.replicas} are wanted")
    if isinstance(service.spec.mode, Global):
        covered = {task.node_id for task in wanted}
        found += [
            f"{name} does not run on {node.description.hostname}"
            for node in state.nodes.values()
            if node.spec.availability is Availability.ACTIVE and node.id not in covered
        ]
    return found


def _has_each_slot_once(state: State, wanted: list[Task], replicas: int) -> bool:
    """Tell whether there is a task for each slot; a second one may wait for room where an update starts first."""
    settled = [task for task in wanted if not _has_no_room(state, task)]
    slots = {task.slot for task in wanted}
    return len(slots) == replicas and len(settled) == len({task.slot for task in settled})


def _has_no_room(state: State, task: Task) -> bool:
    """Tell whether a task waits because there is really no node with room for it."""
    spec = state.spec(task.service_id, task.spec_version)
    if task.status.state is not TaskState.PENDING or spec is None:
        return False
    needs = spec.task.resources.reservations
    for node in state.nodes.values():
        if task.node_id not in (None, node.id) or node.spec.availability is not Availability.ACTIVE:
            continue
        cpus, memory = reserved(state, node.id)
        has = node.description.resources
        if cpus + needs.nano_cpus <= has.nano_cpus and memory + needs.memory_bytes <= has.memory_bytes:
            return False
    return True


def _is_drained(state: State, task: Task) -> bool:
    node = None if task.node_id is None else state.nodes.get(task.node_id)
    return node is not None and node.spec.availability is Availability.DRAIN


def _routes(world: World, state: State) -> list[str]:
    should = {
        task.id
        for service in state.services.values()
        if service.endpoint is not None and service.endpoint.ports and FLAKY not in service.spec.annotations.labels
        for task in state.tasks_of_service(service.id).values()
        if task.desired_state == TaskState.RUNNING and task.status.state is TaskState.RUNNING
    }
    return [
        f"{node.name} sends to other tasks of published ports than there are"
        for node in world.nodes.values()
        if not node.removed and should - node.sends_to
    ]
