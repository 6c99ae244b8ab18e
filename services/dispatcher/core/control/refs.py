"""What a user means by a reference: the exact id, else the exact name, else the only id that begins with it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

from services.kit.errors import FailedPrecondition, NotFound
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Cluster, Config, Network, Node, Secret, Service, Task, Volume
from services.kit.model.states import TaskState
from services.kit.state.view import View

PREFIX_MIN = 1
SHOWN_MAX = 5

ThingT = TypeVar("ThingT", Node, Service, Task, Secret, Config, Network, Volume)
KeyT = TypeVar("KeyT", bound=str)


def find_service(view: View, ref: str) -> Service:
    """Return the service that is meant; raises NotFound or FailedPrecondition (ambiguous)."""
    found = view.services.get(ServiceId(ref)) or view.service_named(ref)
    if found is not None:
        return found
    return _by_prefix("service", view.services, ref, lambda service: service.spec.annotations.name)


def find_named(
    noun: str, things: Mapping[KeyT, ThingT], named: ThingT | None, ref: str, name: Callable[[ThingT], str]
) -> ThingT:
    """Return the thing that is meant: by id, as ``named``, or by prefix."""
    found = things.get(cast("KeyT", ref)) or named
    return found if found is not None else _by_prefix(noun, things, ref, name)


def find_node(view: View, ref: str) -> Node:
    """Return the node that is meant by id, hostname or prefix; hostnames need not be unique."""
    found = view.nodes.get(NodeId(ref))
    if found is not None:
        return found
    named = [node for node in view.nodes.values() if node_name(node) == ref]
    if len(named) == 1:
        return named[0]
    if named:
        raise _ambiguous("node", ref, (node.id for node in named))
    return _by_prefix("node", view.nodes, ref, node_name)


def find_task(view: View, ref: str) -> Task:
    """Return the task that is meant by id, by name (``service.slot`` or ``service.slot.id``) or prefix."""
    found = view.tasks.get(TaskId(ref))
    if found is not None:
        return found
    service_name, _, rest = ref.rpartition(".") if ref.count(".") == 1 else ref.partition(".")
    service = view.service_named(service_name) if rest else None
    if service is not None:
        slot, _, task_id = rest.partition(".")
        tasks = [
            task
            for task in view.tasks_of_service(service.id).values()
            if slot in {str(task.slot), task.node_id} and task_id in {"", task.id}
        ]
        if tasks:
            return max(tasks, key=lambda t: (t.desired_state <= TaskState.RUNNING, t.meta.created_at, t.id))
    return _by_prefix("task", view.tasks, ref, lambda task: task_name(view, task))


def find_cluster(view: View, ref: str) -> Cluster:
    """Return the cluster; any reference that is not its name, id or empty is wrong."""
    cluster = view.cluster
    if cluster is None:
        raise FailedPrecondition("the cluster has not been made yet")
    name = cluster.spec.annotations.name
    if ref and ref != name and not cluster.id.startswith(ref):
        raise NotFound(f"there is no cluster {ref!r}; this one is {name!r}")
    return cluster


def node_name(node: Node) -> str:
    """Return what a node is called: the name its user gave it, else its hostname."""
    return node.spec.annotations.name or node.description.hostname


def task_name(view: View, task: Task) -> str:
    """Return a task's full name: ``service.slot.id`` (the node in place of the slot for global services)."""
    service = view.services.get(task.service_id)
    prefix = task.service_id if service is None else service.spec.annotations.name
    return f"{prefix}.{task.slot or task.node_id or 0}.{task.id}"


def _by_prefix(noun: str, things: Mapping[KeyT, ThingT], ref: str, name: Callable[[ThingT], str]) -> ThingT:
    matches = [thing for key, thing in things.items() if len(ref) >= PREFIX_MIN and key.startswith(ref)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise _ambiguous(noun, ref, (thing.id for thing in matches))
    close = difflib.get_close_matches(ref, [name(thing) for thing in things.values()], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise NotFound(f"there is no {noun} {ref!r}{hint}")


def _ambiguous(noun: str, ref: str, ids: Iterable[str]) -> FailedPrecondition:
    found = sorted(ids)
    shown = ", ".join(found[:SHOWN_MAX]) + (", …" if len(found) > SHOWN_MAX else "")
    return FailedPrecondition(f"{noun} {ref!r} is ambiguous: it may be {shown}")
