"""Does a task still match its service? (SwarmKit's dirty test.)

A task of the current version does. So does one whose template differs only in placement, as long as its node satisfies the new
constraints, or (once it is prepared) only in the credentials for its image: neither restarts anything.
"""

from __future__ import annotations

import msgspec

from services.dispatcher.core.picture import Picture
from services.dispatcher.core.specs import endpoint_of_tasks
from services.dispatcher.core.tasks import is_wanted
from services.kit.model.constraints import parse_constraints, satisfies
from services.kit.model.objects import Service, SpecVersion, Task
from services.kit.model.specs import Placement, TaskSpec
from services.kit.model.states import TaskState


class Cleanliness:
    """The test for the tasks of one service, with the comparison done once a version."""

    def __init__(self, view: Picture, service: Service) -> None:
        self._view = view
        self._service = service
        self._constraints = parse_constraints(service.spec.task.placement.constraints)
        self._verdicts: dict[int, _Difference] = {}

    def is_clean(self, task: Task) -> bool:
        """Tell whether a task matches its service."""
        if task.spec_version == self._service.spec_version:
            return True
        verdict = self._verdicts.get(task.spec_version)
        if verdict is None:
            spec = self._view.spec(task.service_id, task.spec_version)
            verdict = self._verdicts[task.spec_version] = _difference(spec, self._service)
        if verdict.essential:
            return False
        prepared = is_wanted(task) and TaskState.READY <= task.status.state <= TaskState.RUNNING
        if verdict.credentials and not prepared:
            return False
        if verdict.placement:
            node = None if task.node_id is None else self._view.nodes.get(task.node_id)
            return node is not None and satisfies(node, self._constraints)
        return True


class _Difference(msgspec.Struct, frozen=True):
    essential: bool
    placement: bool
    credentials: bool


def _difference(spec: SpecVersion | None, service: Service) -> _Difference:
    new = service.spec
    if spec is None or endpoint_of_tasks(spec.endpoint) != endpoint_of_tasks(new.endpoint):
        return _Difference(True, False, False)
    return _Difference(
        essential=_essence(spec.task) != _essence(new.task),
        placement=spec.task.placement != new.task.placement,
        credentials=spec.task.container.registry_auth != new.task.container.registry_auth,
    )


def _essence(task: TaskSpec) -> TaskSpec:
    container = msgspec.structs.replace(task.container, registry_auth="")
    return msgspec.structs.replace(task, placement=Placement(), container=container)
