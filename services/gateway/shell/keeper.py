"""The keeper of the data plane: owns a copy of every listener, gives each worker its share and the table, hears what they confirm.

Owned by the ingress. What must stay true: a listener exists once per port and worker, and stays open here while its worker is
replaced, so that newcomers wait instead of being refused; a port that cannot be opened harms no other and is tried again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from services.gateway.core.table import Change
from services.gateway.plane.mesh import MESH
from services.gateway.plane.messages import (
    Applied,
    AskCounts,
    Counts,
    Drain,
    Endpoint,
    Listen,
    MeshIdentity,
    Message,
    PortRoute,
    PortSettings,
    Table,
    Unlisten,
)
from services.gateway.shell.kernel_plane import KernelPlane
from services.gateway.shell.listeners import NOT_HERE, listen, places
from services.gateway.shell.plane_line import PlaneLine
from services.kit.messages.routes import Backend, Route
from services.kit.model.ingress import is_tls
from services.kit.model.states import Protocol
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.kit.runtime.processes import wait_end
from services.kit.runtime.tasks import TaskOwner

BIND_AGAIN_S = 1.0
BIND_AGAIN_LONGEST_S = 30.0
COUNTS_WAIT_S = 1.0
LAST_CALL_S = 1.0
"""Beyond the time for draining, until a worker that does not end is left to its own clock."""

Confirmed = Callable[[int, dict[str, int]], None]


class PlaneKeeper:
    """All workers of this node's data plane."""

    def __init__(
        self,
        run_dir: Path,
        host: str,
        *,
        workers: int,
        orphan_s: float,
        clock: Clock,
        confirmed: Confirmed,
        node_id: str = "",
        mesh_port: int = 0,
    ) -> None:
        """``confirmed`` is called when every worker acts on an epoch, and when counts of its draining tasks change.

        ``host`` is where ports without addresses of their own are opened.
        """
        self._host = host
        self._node_id = node_id
        self._mesh_name = f"{MESH}@{host}"
        self._identity: MeshIdentity | None = None
        self.mesh_port = mesh_port
        """Where other gateways call; 0 takes any free port, which is known once every worker is there."""
        self._lines = [PlaneLine(run_dir, number, self, orphan_s=orphan_s) for number in range(workers)]
        self._confirmed = confirmed
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        self._given: list[set[str]] = [set() for _ in self._lines]
        """Which listeners each worker has."""
        self._routes: dict[str, Route] | None = None
        """None until the first table: a worker that was adopted keeps what it has."""
        self._epoch = 0
        """Of the leader's table; leaders number anew, so the workers get our own count instead."""
        self._serial = int(clock.monotonic() * 1000)
        """Larger than any that an earlier gateway gave to a worker that we adopt."""
        self._applied: dict[int, Applied] = {}
        self._counts: dict[int, asyncio.Future[Counts]] = {}
        self._owner = TaskOwner("plane")
        self._kernel = KernelPlane(node_id, host, self._confirm)
        self._has_mesh = False
        """True from the moment every worker has been there."""
        self._bind_again: asyncio.TimerHandle | None = None
        self._bind_again_s = BIND_AGAIN_S
        self._log = Log("plane")
        self.closed_ports: dict[str, str] = {}
        """Ports of the table that are not open on this node, and why."""

    async def start(self, timeout_s: float = 10.0) -> None:
        """Return when every worker is there."""
        self._kernel.start()
        self._owner.spawn("kernel-failure", _fail_with(self._kernel))
        for number, line in enumerate(self._lines):
            self._owner.spawn(f"worker-{number}", line.keep())
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(line.up.wait() for line in self._lines))
        self._open_mesh()

    async def failed(self) -> BaseException:
        """Wait for a broken invariant here and return it."""
        return await self._owner.failed()

    def take(self, change: Change) -> None:
        """Act on a change of the table."""
        if change.full or self._routes is None:
            self._routes = {}
        for key in change.removed:
            self._routes.pop(key, None)
        self._routes.update((route.key, route) for route in change.routes)
        self._epoch = change.epoch
        self._serial += 1
        self._close_unrouted()
        table = Table(
            self._serial, change.full, [self._port_route(route) for route in change.routes], list(change.removed)
        )
        for line in self._lines:
            line.send(table)
        self._kernel.take(self._serial, list(self._routes.values()))
        self._open_routed()

    def become(self, identity: MeshIdentity) -> None:
        """Prove to other gateways with these certificates which node this is."""
        self._identity = identity
        for line in self._lines:
            line.send(identity)

    async def counts(self) -> list[Counts]:
        """Return the numbers of every worker that answers in time."""
        answers = []
        for number, line in enumerate(self._lines):
            answers.append(self._counts.setdefault(number, asyncio.get_running_loop().create_future()))
            line.send(AskCounts())
        done, _ = await asyncio.wait(answers, timeout=COUNTS_WAIT_S)
        return [answer.result() for answer in answers if answer in done]

    async def drain(self, within_s: float) -> None:
        """End the data plane: no new connections, open ones get this time, then the workers are gone."""
        await self._kernel.close(remove=True)
        pids = [line.pid for line in self._lines if line.up.is_set()]
        for line in self._lines:
            line.send(Drain(within_s))
        await self._let_go()
        ended = await asyncio.gather(*(wait_end(pid, timeout_s=within_s + LAST_CALL_S) for pid in pids))
        if not all(ended):
            self._log.warning("worker outlives its drain", pids=str(pids))

    async def detach(self) -> None:
        """Leave the workers, and the kernel, to themselves until the next gateway comes."""
        await self._kernel.close(remove=False)
        await self._let_go()

    # -- what a line tells

    def holding(self, number: int, name: str, listener: socket.socket) -> None:
        """Keep a copy of a listener that an adopted worker has."""
        if (name, number) in self._listeners:
            listener.close()
        else:
            self._listeners[name, number] = listener

    def joined(self, number: int, held: frozenset[str]) -> None:
        """Give a worker the table, then the listeners that it lacks: before it knows the tasks nobody is accepted."""
        self._given[number] = set(held)
        if self._identity is not None:
            self._lines[number].send(self._identity)
        if self._has_mesh:
            self._open_mesh()
        if self._routes is not None:
            routes = [self._port_route(route) for route in self._routes.values()]
            self._close_unrouted()
            self._lines[number].send(Table(self._serial, True, routes, []))
            self._open_routed()

    def said(self, number: int, message: Message) -> None:
        """Take a confirmation or numbers."""
        match message:
            case Applied():
                self._applied[number] = message
                self._confirm()
            case Counts():
                answer = self._counts.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case _:
                self._log.warning("worker says what no worker says", kind=type(message).__name__)

    def _confirm(self) -> None:
        """Tell once every worker and the kernel act on the newest table, and when the counts of draining tasks change."""
        current = [applied.draining for applied in self._applied.values() if applied.serial == self._serial]
        if len(current) == len(self._lines) and self._kernel.serial == self._serial and self._routes is not None:
            self._confirmed(self._epoch, _sum([*current, self._kernel.draining()]))

    @property
    def kernel(self) -> KernelPlane:
        """The kernel's part."""
        return self._kernel

    # -- listeners

    def _close_unrouted(self) -> None:
        """Close the listeners that the table has no more, before the workers confirm the table."""
        assert self._routes is not None, "there is a table"
        wanted = {
            where.name(route.door)
            for route in self._routes.values()
            for where in places(route, self._host, self._node_id)
        }
        wanted.add(self._mesh_name)
        for name, number in [place for place in self._listeners if place[0] not in wanted]:
            self._lines[number].send(Unlisten(name))
            self._given[number].discard(name)
            self._listeners.pop((name, number)).close()

    def _open_routed(self) -> None:
        """Open the ports of the table that are not open yet, once the workers know their tasks."""
        assert self._routes is not None, "there is a table"
        failures: dict[str, str] = {}
        for route in self._routes.values():
            failure = self._open(route)
            if failure:
                failures[route.door] = failure
                if route.door not in self.closed_ports:
                    self._log.warning("port not open", port=route.door, service=route.service_name, cause=failure)
        for key in self.closed_ports.keys() - failures.keys():
            self._log.info("port open after all", port=key)
        self.closed_ports = failures
        self._try_again(
            any(route.protocol is not Protocol.SCTP for route in self._routes.values() if route.door in failures)
        )

    def _open(self, route: Route) -> str:
        """Open what is missing of a port; return why it cannot be open, or nothing."""
        if route.protocol is Protocol.SCTP:
            return "sctp is not carried by this data plane"
        for where in places(route, self._host, self._node_id):
            name = where.name(route.door)
            for number, line in enumerate(self._lines):
                if (name, number) not in self._listeners:
                    try:
                        self._listeners[name, number] = listen(where.host, route.published_port, route.protocol)
                    except OSError as error:
                        if where.is_optional and error.errno in NOT_HERE:
                            break
                        return error.strerror or str(error)
                if name not in self._given[number]:
                    self._given[number].add(name)
                    line.send(Listen(name), self._listeners[name, number])
        return ""

    def _port_route(self, route: Route) -> PortRoute:
        ingress = route.ingress
        http = ingress.http
        settings = PortSettings(
            ingress.algorithm.value,
            ingress.slow_start_s,
            ingress.local_first,
            ingress.idle_timeout_s,
            -(-ingress.connections_max // len(self._lines)),
            list(ingress.proxy_from),
            ingress.proxy_to.value,
            0 if http is None else http.head_bytes_max,
            0.0 if http is None else http.head_timeout_s,
            list(ingress.sni if http is None else http.hosts),
            [] if http is None else list(http.paths),
            is_tls(ingress),
            route.certificate.decode(errors="replace"),
            bool(ingress.tls_secret),
        )
        endpoints = [end for backend in route.backends if (end := self._endpoint(route, backend)) is not None]
        return PortRoute(route.key, endpoints, settings)

    def _endpoint(self, route: Route, backend: Backend) -> Endpoint | None:
        """Return how this node reaches a task, None when it cannot. Datagrams do not travel between gateways."""
        local = backend.node_id == self._node_id
        through = backend.is_private and not local
        if through and (not backend.via or route.protocol is Protocol.UDP):
            return None
        via = backend.via if through else ""
        return Endpoint(
            backend.task_id, backend.addr, backend.port, backend.draining, backend.weight, local, backend.node_id, via
        )

    def _open_mesh(self) -> None:
        """Have every worker answer other gateways, all at one port."""
        self._has_mesh = True
        for number, line in enumerate(self._lines):
            name = self._mesh_name
            if (name, number) not in self._listeners:
                try:
                    self._listeners[name, number] = listen(self._host, self.mesh_port, Protocol.TCP)
                except OSError as error:
                    self._log.error("mesh not open", port=self.mesh_port, cause=str(error))
                    return
            self.mesh_port = self._listeners[name, number].getsockname()[1]
            if name not in self._given[number]:
                self._given[number].add(name)
                line.send(Listen(name), self._listeners[name, number])

    def _try_again(self, needed: bool) -> None:
        """Arm or disarm the one timer for ports that could not be opened."""
        if not needed:
            self._bind_again_s = BIND_AGAIN_S
            if self._bind_again is not None:
                self._bind_again.cancel()
                self._bind_again = None
        elif self._bind_again is None:
            self._bind_again = asyncio.get_running_loop().call_later(self._bind_again_s, self._on_bind_again)
            self._bind_again_s = min(BIND_AGAIN_LONGEST_S, 2 * self._bind_again_s)

    def _on_bind_again(self) -> None:
        self._bind_again = None
        self._open_routed()

    async def _let_go(self) -> None:
        self._try_again(False)
        await self._owner.close()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()


async def _fail_with(kernel: KernelPlane) -> None:
    raise await kernel.failed()


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
