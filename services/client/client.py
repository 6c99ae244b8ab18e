"""The async client of the control API. ``BlockingClient`` offers the same calls without asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

from services.client import feed, log_lines
from services.client.backups import Backups
from services.client.clusters import Clusters
from services.client.feed import ObjectChange
from services.client.inside import Inside
from services.client.line import ControlLine
from services.client.networks import Networks
from services.client.nodes import Nodes
from services.client.payloads import Configs, Secrets
from services.client.services import Services
from services.client.socket import control_socket
from services.client.tasks import Tasks
from services.client.volumes import Volumes
from services.kit.bus.api import Bus
from services.kit.messages import control, inquiry, logs
from services.kit.messages.logs import LogBatch, LogLine, LogOptions, LogSelector
from services.kit.messages.method import Empty
from services.kit.model.states import LogStream
from services.kit.runtime.clock import Clock, SystemClock
from services.kit.runtime.ids import IdSource, SystemIds

TIMEOUT_S = 10.0
"""How long a call goes on trying when nothing else is said: longer than any change of leader."""


class Client:
    """Talks to the swarm through a node's control socket.

    The socket is the one given, else ``$SWARM_SOCKET``, else the well-known one of this user's first node. ``timeout_s`` bounds each
    call, its repetitions included: what is safe to repeat is repeated until then, so a change of leader is not seen. Every call
    raises a ``SwarmError`` when it fails. A ``ref`` is an id, an exact name or an unambiguous prefix of an id.

    >>> async with Client() as swarm:  # doctest: +SKIP
    ...     web = await swarm.services.create(service_spec("web", command=["python3", "-m", "http.server", "{{.Task.Port}}"]))
    ...     await swarm.services.wait(web.id, timeout_s=60)
    ...     for task in await swarm.services.tasks("web"):
    ...         print(task.slot, task.status.state.name)
    """

    backups: Backups
    clusters: Clusters
    nodes: Nodes
    services: Services
    tasks: Tasks
    secrets: Secrets
    configs: Configs
    inside: Inside
    volumes: Volumes
    networks: Networks

    def __init__(
        self,
        socket: str | Path | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        bus: Bus | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._own_bus = bus is None
        self._bus = _zmq_bus() if bus is None else bus
        self._line = ControlLine(
            self._bus,
            control_socket(socket),
            timeout_s=timeout_s,
            clock=clock or SystemClock(),
            ids=ids or SystemIds(),
        )
        self.backups = Backups(self._line)
        self.clusters = Clusters(self._line)
        self.nodes = Nodes(self._line)
        self.services = Services(self._line)
        self.tasks = Tasks(self._line)
        self.secrets = Secrets(self._line)
        self.configs = Configs(self._line)
        self.inside = Inside(self._line)
        self.volumes = Volumes(self._line)
        self.networks = Networks(self._line)

    @property
    def socket(self) -> str:
        """The control socket it talks to."""
        return self._line.socket

    async def __aenter__(self) -> Self:
        try:
            await self._line.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the connection; idempotent."""
        await self._line.close()
        if self._own_bus:
            await self._bus.close()

    async def version(self) -> control.VersionReply:
        """Return what answers: its version, protocol and node."""
        return await self._line.call(control.VERSION, Empty())

    async def why(self, ref: str, *, stale: bool = False) -> inquiry.WhyReply:
        """Return why a service, task or node is not where it should be; without findings all is as it should be.

        >>> for finding in (await swarm.why("web")).findings:  # doctest: +SKIP
        ...     print(finding.about, "waits for", finding.waits_for)
        """
        return await self._line.call(inquiry.WHY, inquiry.WhyRequest(ref=ref, stale=stale))

    async def history(self, ref: str, *, related: bool = False, most: int = 200) -> inquiry.HistoryReply:
        """Return what happened to one object, as far as the manager remembers; ``related`` adds the tasks of a service or node."""
        return await self._line.call(inquiry.HISTORY, inquiry.HistoryRequest(ref=ref, related=related, most=most))

    async def watch(
        self, *, tables: Iterable[str] = (), services: Iterable[str] = (), version: int = 0
    ) -> AsyncGenerator[ObjectChange, None]:
        """Yield changes of objects in order and without gaps, from now on or from behind a version; never ends by itself.

        ``tables`` are node, service, task, cluster, secret, config, network, volume and spec; none means all.

        >>> async for change in swarm.watch(tables=["task"]):  # doctest: +SKIP
        ...     print(change.action, change.object.id)
        """
        service_ids = tuple([(await self.services.get(ref)).id for ref in services])
        request = control.WatchObjects(tables=tuple(tables), service_ids=service_ids, version=version)
        changes = feed.watch(self._line, request)
        async with aclosing(changes):
            async for change in changes:
                yield change

    async def logs(
        self,
        *,
        services: Iterable[str] = (),
        tasks: Iterable[str] = (),
        nodes: Iterable[str] = (),
        follow: bool = False,
        tail: int = -1,
        since: float = 0.0,
        streams: Iterable[LogStream] = (),
    ) -> AsyncGenerator[LogLine, None]:
        """Yield log lines of the tasks named in any way; with ``follow`` it goes on until it is closed.

        ``tail`` is the number of last lines per task (-1: all), ``since`` seconds since the epoch.

        >>> async for line in swarm.logs(services=["web"], tail=10):  # doctest: +SKIP
        ...     print(line.slot, line.data.decode(errors="replace"))
        """
        batches = self.log_batches(
            services=services, tasks=tasks, nodes=nodes, follow=follow, tail=tail, since=since, streams=streams
        )
        async with aclosing(batches):
            async for batch in batches:
                for line in batch.lines:
                    yield line

    async def log_batches(
        self,
        *,
        services: Iterable[str] = (),
        tasks: Iterable[str] = (),
        nodes: Iterable[str] = (),
        follow: bool = False,
        tail: int = -1,
        since: float = 0.0,
        streams: Iterable[LogStream] = (),
    ) -> AsyncGenerator[LogBatch, None]:
        """Yield log lines as they arrive, and in ``missing`` the nodes that could not answer."""
        selector = LogSelector(
            service_ids=tuple([(await self.services.get(ref)).id for ref in services]),
            task_ids=tuple([(await self.tasks.get(ref)).task.id for ref in tasks]),
            node_ids=tuple([(await self.nodes.get(ref)).id for ref in nodes]),
        )
        options = LogOptions(streams=tuple(streams), follow=follow, tail=tail, since=since)
        batches = log_lines.follow(self._line, logs.SubscribeLogs(selector=selector, options=options))
        async with aclosing(batches):
            async for batch in batches:
                yield batch


def _zmq_bus() -> Bus:
    from services.kit.bus.zmq import ZmqBus  # noqa: PLC0415 (libzmq is loaded only where it is used)

    return ZmqBus(clock=SystemClock(), process="client")
