"""What one node must run: a full set first, then changes. One machine a stream.

Fed with what the store applied (never with what is only under way), asked for messages with ``take``. Pushed are new assignments and
changes of desired state or template; statuses are the node's own news. Secrets, configs and networks travel before the first task that uses
them and are taken back with the last one; volumes travel when they are published here, and are taken back until the node has said
that it took them down. What must stay true: messages are numbered without gaps, and the parts of a full set
say that more follows, so that a node with many tasks takes none of them for gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from services.kit.messages.session import AssignedTask, AssignedVolume, Assignments
from services.kit.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId, VolumeId
from services.kit.model.objects import SpecVersion, Task, Volume
from services.kit.model.states import TaskState
from services.kit.model.value import Value
from services.kit.model.volumes import PublicationState
from services.kit.state.state import Event
from services.kit.state.view import View

TASKS_MAX = 1000
"""Most tasks of one message; the rest follow in the next."""


class _Sent(Value, frozen=True, kw_only=True):
    """A task as the node was told of it, and what it uses there."""

    task: Task
    secrets: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


class _Uses:
    """How many of a node's tasks use each thing; tells what came and went since it was last asked."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told: set[str] = set()

    def add(self, ids: Iterable[str], step: int) -> None:
        for each in ids:
            self._counts[each] += step
            if not self._counts[each]:
                del self._counts[each]

    def news(self) -> tuple[list[str], tuple[str, ...]]:
        now = set(self._counts)
        came, went = sorted(now - self._told), tuple(sorted(self._told - now))
        self._told = now
        return came, went


class AssignmentBook:
    """What a node was told, and what it has yet to be told."""

    def __init__(self, node: NodeId, view: View, shown: Callable[[Task], Task] = lambda task: task) -> None:
        """``shown`` says what the node may see of a task now (see core/draining)."""
        self.node = node
        self._shown = shown
        self._sent: dict[TaskId, _Sent] = {}
        self._changed: dict[TaskId, Task | None] = {}
        self._templates: Counter[tuple[ServiceId, int]] = Counter()
        self._secrets = _Uses()
        self._configs = _Uses()
        self._volumes: dict[VolumeId, tuple[str, ...]] = {}
        """Volumes that the node was given, with the secrets of each."""
        self._moved: dict[VolumeId, None] = {}
        """Volumes to look at again."""
        self._networks = _Uses()
        self._number = 0
        self._is_whole = False
        """True once the last part of the full set was taken."""
        for task in view.tasks_of_node(node).values():
            if task.status.state >= TaskState.ASSIGNED:
                self._changed[task.id] = shown(task)
        self._moved.update((volume.id, None) for volume in view.volumes.values() if _state_on(volume, node) is not None)

    @property
    def has_news(self) -> bool:
        """Tell whether ``take`` would return anything."""
        return self._number == 0 or bool(self._changed) or bool(self._moved)

    def notice(self, event: Event) -> bool:
        """Take a change of a task; True when the node must hear of it."""
        old, new = event.old, event.new
        if isinstance(new, Task) and new.node_id == self.node and new.status.state >= TaskState.ASSIGNED:
            new = self._shown(new)
            sent = self._sent.get(new.id)
            if new.id not in self._changed and sent is not None and not _differs(sent, new):
                return False
            self._changed[new.id] = new
            return True
        if not isinstance(old, Task) or (old.id not in self._sent and old.id not in self._changed):
            return False
        if old.id in self._sent:
            self._changed[old.id] = None
        else:
            del self._changed[old.id]
        return True

    def notice_volume(self, event: Event) -> bool:
        """Take a change of a volume; True when the node must hear of it."""
        old, new = event.old, event.new
        before = _state_on(old, self.node) if isinstance(old, Volume) else None
        after = _state_on(new, self.node) if isinstance(new, Volume) else None
        if before is after:
            return False
        self._moved[VolumeId(event.object.id)] = None
        return True

    def take(self, view: View) -> Assignments | None:
        """Return the next message, None when there is nothing to tell."""
        if not self.has_news:
            return None
        number, self._number = self._number, self._number + 1
        tasks: list[AssignedTask] = []
        removed: list[TaskId] = []
        specs: list[SpecVersion] = []
        for task_id, task in list(self._changed.items())[:TASKS_MAX]:
            del self._changed[task_id]
            self._forget(task_id)
            if task is None:
                removed.append(task_id)
                continue
            spec = view.spec(task.service_id, task.spec_version)
            if spec is not None and not self._templates[task.service_id, task.spec_version]:
                specs.append(spec)
            self._remember(task, spec)
            tasks.append(AssignedTask(task=task))
        volumes, removed_volumes = self._take_volumes(view)
        secrets, removed_secrets = self._secrets.news()
        configs, removed_configs = self._configs.news()
        more_follows = not self._is_whole and bool(self._changed)
        self._is_whole = not more_follows
        networks, removed_networks = self._networks.news()
        return Assignments(
            full=number == 0,
            applies_to=number,
            results_in=self._number,
            more_follows=more_follows,
            tasks=tuple(tasks),
            removed_tasks=tuple(removed),
            specs=tuple(specs),
            secrets=tuple(s for each in secrets if (s := view.secrets.get(SecretId(each))) is not None),
            removed_secrets=removed_secrets,
            configs=tuple(c for each in configs if (c := view.configs.get(ConfigId(each))) is not None),
            removed_configs=removed_configs,
            volumes=volumes,
            removed_volumes=removed_volumes,
            networks=tuple(n for each in networks if (n := view.networks.get(NetworkId(each))) is not None),
            removed_networks=removed_networks,
        )

    def _take_volumes(self, view: View) -> tuple[tuple[AssignedVolume, ...], tuple[VolumeId, ...]]:
        given: list[AssignedVolume] = []
        removed: list[VolumeId] = []
        for volume_id in self._moved:
            volume = view.volumes.get(volume_id)
            self._secrets.add(self._volumes.pop(volume_id, ()), -1)
            state = None if volume is None else _state_on(volume, self.node)
            if volume is not None and state is PublicationState.PUBLISHED:
                given.append(_assigned(volume, self.node))
                self._volumes[volume_id] = secrets = tuple(secret.secret_id for secret in volume.spec.secrets)
                self._secrets.add(secrets, 1)
            elif state is not PublicationState.PENDING_PUBLISH:
                removed.append(volume_id)
        self._moved.clear()
        return tuple(given), tuple(removed)

    def _remember(self, task: Task, spec: SpecVersion | None) -> None:
        sent = _Sent(task=task)
        if spec is not None and not task.status.state.terminal and task.desired_state <= TaskState.COMPLETE:
            container = spec.task.container
            sent = _Sent(
                task=task,
                secrets=tuple(reference.secret_id for reference in container.secrets),
                configs=tuple(reference.config_id for reference in container.configs),
                networks=tuple(attachment.target for attachment in spec.task.networks),
            )
        self._sent[task.id] = sent
        self._templates[task.service_id, task.spec_version] += 1
        self._secrets.add(sent.secrets, 1)
        self._configs.add(sent.configs, 1)
        self._networks.add(sent.networks, 1)

    def _forget(self, task_id: TaskId) -> None:
        sent = self._sent.pop(task_id, None)
        if sent is not None:
            self._templates[sent.task.service_id, sent.task.spec_version] -= 1
            self._secrets.add(sent.secrets, -1)
            self._configs.add(sent.configs, -1)
            self._networks.add(sent.networks, -1)


def _state_on(volume: Volume, node: NodeId) -> PublicationState | None:
    return next((each.state for each in volume.publications if each.node_id == node), None)


def _assigned(volume: Volume, node: NodeId) -> AssignedVolume:
    assert volume.info is not None, "only what was made is published"
    context = next(each.context for each in volume.publications if each.node_id == node)
    return AssignedVolume(
        id=volume.id,
        driver=volume.spec.driver.name,
        driver_options=volume.spec.driver.options,
        volume_id=volume.info.volume_id,
        access_mode=volume.spec.access_mode,
        volume_context=volume.info.context,
        publish_context=context,
        secrets=volume.spec.secrets,
    )


def _differs(sent: _Sent, new: Task) -> bool:
    """Tell whether a node must hear of a change. That its task ended it knows itself, but not that its secrets may go."""
    known = sent.task
    if (known.desired_state, known.spec_version, known.generic) != (new.desired_state, new.spec_version, new.generic):
        return True
    return new.status.state.terminal and bool(sent.secrets or sent.configs or sent.networks)
