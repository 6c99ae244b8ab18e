"""The set of tasks that the dispatcher wants on this node, with the templates, secrets and configs they need.

Pure: an ``Assignments`` message goes in, the changes to carry out come out. A message that does not follow the last one is not
applied at all; the answer is then ``Resync``, and everything is ignored until the next full set. A full set may come in parts; what it
does not name is removed with the last one.

Secrets and configs live in memory only. After a restart of the agent they come with the first full set; a task that needs one
earlier waits (``MissingDependency``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.agent.core.bundle import NodeFacts, TaskBundle, make_bundle
from services.kit.errors import Unavailable
from services.kit.messages.session import Assignments
from services.kit.model.ids import SpecVersionId, TaskId, VolumeId, spec_version_id
from services.kit.model.objects import Config, Network, Secret, SpecVersion, Task


class MissingDependency(Unavailable):
    """A secret, config or volume of the task has not come yet."""


@dataclass(frozen=True, slots=True)
class Add:
    """Take on this task."""

    task: Task
    spec: SpecVersion


@dataclass(frozen=True, slots=True)
class Change:
    """The dispatcher's wish for this task changed."""

    task: Task


@dataclass(frozen=True, slots=True)
class Remove:
    """This task is no longer ours."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class Resync:
    """A gap: ask for the full set again."""

    reason: str


WorkerAction = Add | Change | Remove | Resync


class Worker:
    """What is assigned to this node."""

    def __init__(self, stored: Iterable[tuple[Task, SpecVersion]] = ()) -> None:
        self._tasks: dict[TaskId, Task] = {}
        self._specs: dict[SpecVersionId, SpecVersion] = {}
        for task, spec in stored:
            self._tasks[task.id] = task
            self._specs[spec.id] = spec
        self._secrets: dict[str, Secret] = {}
        self._configs: dict[str, Config] = {}
        self._networks: dict[str, Network] = {}
        self._follows: int | None = None
        self._complete = False
        self._unnamed: set[TaskId] | None = None
        """Tasks that the parts of a full set have not named so far; None while no full set is under way."""

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def complete(self) -> bool:
        """True from the first full set on: then a task that is not here is not ours."""
        return self._complete

    def apply(self, message: Assignments) -> list[WorkerAction]:
        """Take over a message; the actions are ordered: removals, then additions and changes as they came."""
        if not message.full and message.applies_to != self._follows:
            reason = f"assignments {message.applies_to}→{message.results_in} do not follow {self._follows}"
            self._follows = None
            return [Resync(reason)]
        specs = {spec.id: spec for spec in message.specs}
        known = specs if message.full else {**self._specs, **specs}
        for assigned in message.tasks:
            wanted = _spec_of(assigned.task)
            if wanted not in known and wanted not in self._specs:
                self._follows = None
                return [Resync(f"template {wanted} of task {assigned.task.id} did not come")]
        self._specs.update(specs)
        self._take_dependencies(message)
        actions = self._take_tasks(message)
        self._follows = message.results_in
        used = {_spec_of(task) for task in self._tasks.values()}
        for unused in self._specs.keys() - used:
            del self._specs[unused]
        return actions

    def secret_data(self) -> Mapping[str, bytes]:
        """Return the data of every secret that was given to this node, by id."""
        return {secret_id: secret.spec.data for secret_id, secret in self._secrets.items()}

    def bundle(
        self,
        task: Task,
        spec: SpecVersion,
        node: NodeFacts,
        *,
        volume_path: Callable[[VolumeId], str] = lambda _: "",
        partial: bool = False,
    ) -> TaskBundle:
        """Put a task together with what it needs; raises TemplateError, and MissingDependency unless a ``partial`` one, without files, will do.

        ``volume_path`` says where a cluster volume is on this node; empty while it is not here.
        """
        container = spec.task.container
        missing = [f"secret {r.secret_name}" for r in container.secrets if r.secret_id not in self._secrets]
        missing += [f"config {r.config_name}" for r in container.configs if r.config_id not in self._configs]
        paths = {use.target: volume_path(use.volume_id) for use in task.volumes}
        missing += [f"volume {use.source}" for use in task.volumes if not paths[use.target]]
        targets = [attachment.target for attachment in spec.task.networks]
        missing += [f"network {target}" for target in targets if target not in self._networks]
        if missing and partial:
            return make_bundle(task, spec, node)
        if missing:
            raise MissingDependency(f"{', '.join(missing)} not delivered yet")
        return make_bundle(
            task,
            spec,
            node,
            secrets=tuple(self._secrets[r.secret_id] for r in container.secrets),
            configs=tuple(self._configs[r.config_id] for r in container.configs),
            volume_paths=paths,
            networks=tuple(self._networks[target] for target in targets),
        )

    def _take_dependencies(self, message: Assignments) -> None:
        if message.full:
            self._secrets.clear()
            self._configs.clear()
            self._networks.clear()
        self._secrets.update({secret.id: secret for secret in message.secrets})
        self._configs.update({config.id: config for config in message.configs})
        self._networks.update({network.id: network for network in message.networks})
        for secret_id in message.removed_secrets:
            self._secrets.pop(secret_id, None)
        for config_id in message.removed_configs:
            self._configs.pop(config_id, None)
        for network_id in message.removed_networks:
            self._networks.pop(network_id, None)

    def _take_tasks(self, message: Assignments) -> list[WorkerAction]:
        removed: set[TaskId] = set(message.removed_tasks)
        if message.full:
            self._unnamed = set(self._tasks)
        if self._unnamed is not None:
            self._unnamed -= {assigned.task.id for assigned in message.tasks}
            if not message.more_follows:
                removed |= self._unnamed
                self._unnamed, self._complete = None, True
        gone = sorted(removed & self._tasks.keys())
        for task_id in gone:
            del self._tasks[task_id]
        actions: list[WorkerAction] = [Remove(task_id) for task_id in gone]
        for assigned in message.tasks:
            task = assigned.task
            before = self._tasks.get(task.id)
            self._tasks[task.id] = task
            if before is None:
                actions.append(Add(task, self._specs[_spec_of(task)]))
            elif before.desired_state != task.desired_state:
                actions.append(Change(task))
        return actions


def _spec_of(task: Task) -> SpecVersionId:
    return spec_version_id(task.service_id, task.spec_version)
