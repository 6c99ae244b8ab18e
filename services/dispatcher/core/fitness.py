"""Which tasks a node may not keep: it does not meet their constraints any more, or has less than they were given.

Read by the enforcer. The older task stays, so that equal pictures evict equal tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from services.dispatcher.core.picture import Picture
from services.dispatcher.core.tasks import is_wanted
from services.kit.model.constraints import parse_constraints, satisfies
from services.kit.model.objects import Node, Task
from services.kit.model.specs import GenericResource, Resources

NO_LONGER_MEETS = "assigned node no longer meets constraints"
NO_LONGER_HAS = "assigned node no longer has the resources"


def misfits(view: Picture, node: Node) -> Iterator[tuple[Task, str]]:
    """Yield the tasks that must leave a node, oldest first, each with the reason."""
    tasks = [
        task for task in view.tasks_of_node(node.id).values() if is_wanted(task) and not task.status.state.terminal
    ]
    have = node.description.resources
    nano_cpus, memory_bytes = have.nano_cpus, have.memory_bytes
    taken: Counter[str] = Counter()
    for task in sorted(tasks, key=lambda task: (task.meta.created_at or float("inf"), task.id)):
        if not _meets(view, node, task):
            yield task, NO_LONGER_MEETS
            continue
        spec = view.spec(task.service_id, task.spec_version)
        needs = Resources() if spec is None else spec.task.resources.reservations
        too_much = needs.nano_cpus > nano_cpus if needs.nano_cpus else False
        too_much = too_much or (needs.memory_bytes > memory_bytes if needs.memory_bytes else False)
        if too_much or not _exist(task.generic, have.generic, taken):
            yield task, NO_LONGER_HAS
            continue
        nano_cpus -= needs.nano_cpus
        memory_bytes -= needs.memory_bytes
        for resource in task.generic:
            taken[resource.kind] += resource.count


def _meets(view: Picture, node: Node, task: Task) -> bool:
    """The service's constraints count, even for a task of an older version that only differs in them."""
    service = view.services.get(task.service_id)
    spec = view.spec(task.service_id, task.spec_version)
    if service is None and spec is None:
        return True
    template = spec.task if service is None and spec is not None else service.spec.task  # type: ignore[union-attr]
    return satisfies(node, parse_constraints(template.placement.constraints))


def _exist(dealt: Iterable[GenericResource], offered: tuple[GenericResource, ...], taken: Counter[str]) -> bool:
    """Tell whether a node still has what a task was dealt, beside what older tasks have."""
    for resource in dealt:
        offer = next((each for each in offered if each.kind == resource.kind), None)
        if offer is None or bool(offer.names) != bool(resource.names):
            return False
        if resource.names and not set(resource.names) <= set(offer.names):
            return False
        if not resource.names and taken[resource.kind] + resource.count > offer.count:
            return False
    return True
