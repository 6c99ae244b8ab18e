"""When faults stop the swarm converges: everybody is there, and what is wanted runs. Asked again and again during the heal phase."""

from __future__ import annotations

from services.kit.model.ids import TaskId
from services.kit.model.objects import Service, Task
from services.kit.model.specs import Global, Replicated
from services.kit.model.states import Availability, NodeState, TaskState
from services.kit.state.state import State
from tests.sim.checkers.placement import running_tasks
from tests.sim.checkers.reservations import reserved
from tests.sim.workload import FLAKY
from tests.sim.world import World

PROMISE = "the swarm converges when faults stop"


def missing(world: World, index: int) -> list[str]:
    """Return what keeps the swarm from being as it should be; empty when nothing does.

    ``index`` is that of an entry which was committed a moment ago: every member must have applied it.
    """
    state = world.reference.state
    found = _managers(world, index) + _nodes(world, state)
    running: dict[TaskId, str] = {
        task_id: node.name for node in world.nodes.values() if not node.removed for task_id in running_tasks(node)
    }
    for service in state.services.values():
        if FLAKY not in service.spec.annotations.labels:
            found += _service(state, service, running)
    found += [
        f"{where} runs task {task_id}, which nobody wants"
        for task_id, where in running.items()
        if task_id not in state.tasks or state.tasks[task_id].desired_state > TaskState.RUNNING
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
    if isinstance(service.spec.mode, Replicated) and len(wanted) != service.spec.mode.replicas:
        found.append(f"{name} has {len(wanted)} tasks, {service.spec.mode.replicas} are wanted")
    if isinstance(service.spec.mode, Global):
        covered = {task.node_id for task in wanted}
        found += [
            f"{name} does not run on {node.description.hostname}"
            for node in state.nodes.values()
            if node.spec.availability is Availability.ACTIVE and node.id not in covered
        ]
    return found


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
