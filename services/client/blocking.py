"""The client without asyncio: the same calls, answered by an event loop on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from services.client.blocking_networks import BlockingNetworks
from services.client.blocking_payloads import BlockingConfigs, BlockingSecrets
from services.client.client import TIMEOUT_S, Client
from services.client.clusters import DEFAULT, Clusters
from services.client.convergence import Progress
from services.client.feed import ObjectChange
from services.client.loop_thread import LoopThread as LoopThread
from services.client.nodes import Nodes
from services.client.services import Services
from services.client.tasks import Tasks
from services.kit.bus.api import Bus
from services.kit.messages import control, inquiry
from services.kit.messages.control import Filters
from services.kit.messages.logs import LogBatch, LogLine
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.objects import Cluster, Node, Service, Task
from services.kit.model.specs import ClusterSpec, NodeSpec, ServiceSpec
from services.kit.model.states import Availability, LogStream


class BlockingClusters:
    """``client.clusters`` without asyncio; see ``Clusters``."""

    def __init__(self, thread: LoopThread, clusters: Clusters) -> None:
        self._thread = thread
        self._clusters = clusters

    def get(self, ref: str = DEFAULT, *, stale: bool = False) -> Cluster:
        """Return the cluster without its keys."""
        return self._thread.run(self._clusters.get(ref, stale=stale))

    def list(self, *, stale: bool = False) -> tuple[Cluster, ...]:
        """Return all clusters."""
        return self._thread.run(self._clusters.list(stale=stale))

    def update(self, ref: str, change: Callable[[ClusterSpec], ClusterSpec]) -> Cluster:
        """Change the cluster's spec."""
        return self._thread.run(self._clusters.update(ref, change))

    def put(
        self, version: int, spec: ClusterSpec, *, rotate_worker: bool = False, rotate_manager: bool = False
    ) -> Cluster:
        """Replace the settings that were read at this version and make new tokens."""
        work = self._clusters.put(version, spec, rotate_worker=rotate_worker, rotate_manager=rotate_manager)
        return self._thread.run(work)

    def unlock_key(self) -> str:
        """Return the key that locked managers are unlocked with, empty when managers are not locked."""
        return self._thread.run(self._clusters.unlock_key())

    def rotate_unlock_key(self, ref: str = DEFAULT) -> Cluster:
        """Lock managers under a new key."""
        return self._thread.run(self._clusters.rotate_unlock_key(ref))

    def rotate_root(self, ref: str = DEFAULT, *, certificate: bytes = b"", key: bytes = b"") -> Cluster:
        """Begin to move to another root: the one that is given (PEM), else a fresh one."""
        return self._thread.run(self._clusters.rotate_root(ref, certificate=certificate, key=key))

    def abort_root_rotation(self, ref: str = DEFAULT) -> Cluster:
        """Stay with the root there is."""
        return self._thread.run(self._clusters.abort_root_rotation(ref))

    def rotate_tokens(
        self,
        ref: str = DEFAULT,
        *,
        worker: bool = False,
        manager: bool = False,
        lives_s: float = 0.0,
        uses: int = 0,
    ) -> Cluster:
        """Make new join tokens, with limits if they are given."""
        work = self._clusters.rotate_tokens(ref, worker=worker, manager=manager, lives_s=lives_s, uses=uses)
        return self._thread.run(work)


class BlockingNodes:
    """``client.nodes`` without asyncio; see ``Nodes``."""

    def __init__(self, thread: LoopThread, nodes: Nodes) -> None:
        self._thread = thread
        self._nodes = nodes

    def get(self, ref: str, *, stale: bool = False) -> Node:
        """Return one node."""
        return self._thread.run(self._nodes.get(ref, stale=stale))

    def list(self, filters: Filters = Filters(), *, stale: bool = False) -> tuple[Node, ...]:
        """Return nodes by hostname."""
        return self._thread.run(self._nodes.list(filters, stale=stale))

    def update(self, ref: str, change: Callable[[NodeSpec], NodeSpec]) -> Node:
        """Change a node's spec."""
        return self._thread.run(self._nodes.update(ref, change))

    def put(self, node_id: NodeId, version: int, spec: NodeSpec) -> Node:
        """Replace a spec that was read at this version."""
        return self._thread.run(self._nodes.put(node_id, version, spec))

    def set_availability(self, ref: str, availability: Availability) -> Node:
        """Let the scheduler use a node, pause it or drain it."""
        return self._thread.run(self._nodes.set_availability(ref, availability))

    def remove(self, ref: str, *, force: bool = False) -> Node:
        """Remove a node."""
        return self._thread.run(self._nodes.remove(ref, force=force))


class BlockingServices:
    """``client.services`` without asyncio; see ``Services``."""

    def __init__(self, thread: LoopThread, services: Services) -> None:
        self._thread = thread
        self._services = services

    def create(self, spec: ServiceSpec) -> Service:
        """Create a service."""
        return self._thread.run(self._services.create(spec))

    def get(self, ref: str, *, stale: bool = False) -> Service:
        """Return one service."""
        return self._thread.run(self._services.get(ref, stale=stale))

    def list(self, filters: Filters = Filters(), *, stale: bool = False) -> tuple[Service, ...]:
        """Return services by name."""
        return self._thread.run(self._services.list(filters, stale=stale))

    def statuses(
        self, service_ids: tuple[ServiceId, ...] = (), *, stale: bool = False
    ) -> tuple[control.ServiceStatus, ...]:
        """Return how many tasks of each service are wanted, running and complete."""
        return self._thread.run(self._services.statuses(service_ids, stale=stale))

    def tasks(self, ref: str, *, stale: bool = False) -> tuple[Task, ...]:
        """Return a service's tasks."""
        return self._thread.run(self._services.tasks(ref, stale=stale))

    def update(self, ref: str, change: Callable[[ServiceSpec], ServiceSpec]) -> Service:
        """Replace a service's spec by a changed one."""
        return self._thread.run(self._services.update(ref, change))

    def put(self, service_id: ServiceId, version: int, spec: ServiceSpec) -> Service:
        """Replace a spec that was read at this version."""
        return self._thread.run(self._services.put(service_id, version, spec))

    def put_back(self, service_id: ServiceId, version: int) -> Service:
        """Go back to the previous spec of a service that was read at this version."""
        return self._thread.run(self._services.put_back(service_id, version))

    def pause(self, ref: str) -> Service:
        """Stop a service's update where it is."""
        return self._thread.run(self._services.pause(ref))

    def resume(self, ref: str) -> Service:
        """Let a paused update go on."""
        return self._thread.run(self._services.resume(ref))

    def scale(self, ref: str, replicas: int) -> Service:
        """Set the number of tasks."""
        return self._thread.run(self._services.scale(ref, replicas))

    def rollback(self, ref: str) -> Service:
        """Go back to the previous spec."""
        return self._thread.run(self._services.rollback(ref))

    def remove(self, ref: str) -> Service:
        """Remove a service with its tasks."""
        return self._thread.run(self._services.remove(ref))

    def progress(self, ref: str, *, stable_s: float = 0.0, rollback: bool = False) -> Iterator[Progress]:
        """Yield how far the service has come until it converged or failed."""
        return self._thread.iterate(self._services.progress(ref, stable_s=stable_s, rollback=rollback))

    def wait(
        self,
        ref: str,
        *,
        timeout_s: float | None = None,
        stable_s: float = 0.0,
        rollback: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Wait until the service converged; ``on_progress`` is called on the client's thread."""
        work = self._services.wait(
            ref, timeout_s=timeout_s, stable_s=stable_s, rollback=rollback, on_progress=on_progress
        )
        return self._thread.run(work)


class BlockingTasks:
    """``client.tasks`` without asyncio; see ``Tasks``."""

    def __init__(self, thread: LoopThread, tasks: Tasks) -> None:
        self._thread = thread
        self._tasks = tasks

    def get(self, ref: str, *, stale: bool = False) -> control.TaskReply:
        """Return one task with the template it runs."""
        return self._thread.run(self._tasks.get(ref, stale=stale))

    def list(self, filters: Filters = Filters(), *, stale: bool = False) -> tuple[Task, ...]:
        """Return tasks by service, slot and newest first."""
        return self._thread.run(self._tasks.list(filters, stale=stale))

    def list_with_specs(self, filters: Filters = Filters(), *, stale: bool = False) -> control.TaskList:
        """Return tasks and the templates that they run."""
        return self._thread.run(self._tasks.list_with_specs(filters, stale=stale))

    def remove(self, ref: str) -> Task:
        """Delete a task from the store whatever its state."""
        return self._thread.run(self._tasks.remove(ref))


class BlockingClient:
    """The same calls as ``Client``, blocking. Any thread may call; iterators are read by one thread.

    >>> with BlockingClient() as swarm:  # doctest: +SKIP
    ...     for service in swarm.services.list():
    ...         print(service.spec.annotations.name)
    """

    def __init__(
        self, socket: str | Path | None = None, *, timeout_s: float = TIMEOUT_S, bus: Callable[[], Bus] | None = None
    ) -> None:
        self._thread = LoopThread()
        try:
            self._client = self._thread.run(_make(socket, timeout_s, bus))
        except BaseException:
            self._thread.close()
            raise
        self.clusters = BlockingClusters(self._thread, self._client.clusters)
        self.nodes = BlockingNodes(self._thread, self._client.nodes)
        self.services = BlockingServices(self._thread, self._client.services)
        self.tasks = BlockingTasks(self._thread, self._client.tasks)
        self.secrets = BlockingSecrets(self._thread, self._client.secrets)
        self.configs = BlockingConfigs(self._thread, self._client.configs)
        self.networks = BlockingNetworks(self._thread, self._client.networks)

    @property
    def socket(self) -> str:
        """The control socket it talks to."""
        return self._client.socket

    def __enter__(self) -> Self:
        try:
            self._thread.run(self._client.__aenter__())
        except BaseException:
            self._thread.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the connection and end the thread; idempotent."""
        if self._thread.alive:
            self._thread.run(self._client.close())
            self._thread.close()

    def version(self) -> control.VersionReply:
        """Return what answers: its version, protocol and node."""
        return self._thread.run(self._client.version())

    def why(self, ref: str, *, stale: bool = False) -> inquiry.WhyReply:
        """Return why a service, task or node is not where it should be."""
        return self._thread.run(self._client.why(ref, stale=stale))

    def history(self, ref: str, *, related: bool = False, most: int = 200) -> inquiry.HistoryReply:
        """Return what happened to one object, as far as the manager remembers."""
        return self._thread.run(self._client.history(ref, related=related, most=most))

    def watch(
        self, *, tables: Iterable[str] = (), services: Iterable[str] = (), version: int = 0
    ) -> Iterator[ObjectChange]:
        """Yield changes of objects in order and without gaps."""
        return self._thread.iterate(self._client.watch(tables=tables, services=services, version=version))

    def logs(
        self,
        *,
        services: Iterable[str] = (),
        tasks: Iterable[str] = (),
        nodes: Iterable[str] = (),
        follow: bool = False,
        tail: int = -1,
        since: float = 0.0,
        streams: Iterable[LogStream] = (),
    ) -> Iterator[LogLine]:
        """Yield log lines of the tasks named in any way."""
        lines = self._client.logs(
            services=services, tasks=tasks, nodes=nodes, follow=follow, tail=tail, since=since, streams=streams
        )
        return self._thread.iterate(lines)

    def log_batches(
        self,
        *,
        services: Iterable[str] = (),
        tasks: Iterable[str] = (),
        nodes: Iterable[str] = (),
        follow: bool = False,
        tail: int = -1,
        since: float = 0.0,
        streams: Iterable[LogStream] = (),
    ) -> Iterator[LogBatch]:
        """Yield log lines as they arrive, and in ``missing`` the nodes that could not answer."""
        batches = self._client.log_batches(
            services=services, tasks=tasks, nodes=nodes, follow=follow, tail=tail, since=since, streams=streams
        )
        return self._thread.iterate(batches)


async def _make(socket: str | Path | None, timeout_s: float, bus: Callable[[], Bus] | None) -> Client:
    return Client(socket, timeout_s=timeout_s, bus=None if bus is None else bus())
