"""The ingress: follows the leader's route table and has the data plane act on it, confirms each epoch, and tells what was carried.

Runs as a task of the app on every node. What must stay true: without a leader the last table goes on; a gap in the table's numbers is
closed by asking for a full one; an epoch is confirmed to the leader only when every worker acts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from services.gateway.core.latency import BOUNDS_S, Latency
from services.gateway.core.table import Change, Gap, RouteBook
from services.gateway.plane.messages import Counts
from services.kit.bus.api import Connection
from services.kit.bus.session import ManagerLink
from services.kit.errors import SwarmError, Unavailable
from services.kit.messages import routes
from services.kit.messages.routes import AckRoutes, IngressStatus, LatencyCounts, TaskTraffic, WatchRoutes
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.store.line import BackOff

_TRAFFIC = ("open", "connections", "failures", "ejections", "bytes_in", "bytes_out")


class KernelWork(NamedTuple):
    """What the kernel carries of what it is asked to."""

    ports: tuple[str, ...] = ()
    failure: str = ""


class Plane(Protocol):
    """The data plane as the ingress and the app see it; the keeper of real workers is one."""

    closed_ports: dict[str, str]
    """Ports of the table that are not open on this node, and why."""

    async def start(self) -> None:
        """Return when every worker is there."""

    async def failed(self) -> BaseException:
        """Wait for a broken invariant and return it."""

    def take(self, change: Change) -> None:
        """Act on a change of the table."""

    async def counts(self) -> list[Counts]:
        """Return the numbers of every worker that answers in time."""

    async def drain(self, within_s: float) -> None:
        """End the data plane; open connections get this time."""

    async def detach(self) -> None:
        """Leave the workers to themselves until the next gateway comes."""


class Ingress:
    """This node's part of the swarm's load balancer."""

    def __init__(
        self,
        revoked: Callable[[frozenset[bytes]], None],
        mesh_port: Callable[[], int] = lambda: 0,
        kernel: Callable[[], KernelWork] = KernelWork,
    ) -> None:
        """``revoked`` is told the keys of removed nodes whenever they change; ``mesh_port`` says where other gateways may call."""
        self._kernel = kernel
        self._mesh_port = mesh_port
        self.book = RouteBook()
        self._revoked = revoked
        self._keeper: Plane | None = None
        self._confirmed: AckRoutes | None = None
        self._has_table = False
        """False until this leader's first table: what is confirmed before then are another leader's epochs."""
        self._news = asyncio.Event()
        self._log = Log("ingress")

    def use(self, keeper: Plane) -> None:
        """Take the keeper of the data plane."""
        self._keeper = keeper

    def confirmed(self, epoch: int, draining: dict[str, int]) -> None:
        """Take note that every worker acts on an epoch."""
        if self._has_table:
            self._confirmed = AckRoutes(epoch=epoch, connections=draining)
            self._news.set()

    async def run(self, link: ManagerLink) -> None:
        """Follow the leader, whoever it is, until cancelled."""
        back_off = BackOff()
        while True:
            connection: Connection | None = None
            try:
                connection = await link.connection()
                await self._follow(connection, link.succeeded)
            except SwarmError as error:
                self._log.debug("route table lost", cause=str(error))
                if connection is not None:
                    await link.report(connection, error)
                if self._has_table:
                    back_off.reset()
                if not isinstance(error, Unavailable):
                    await back_off.wait()

    async def _follow(self, connection: Connection, succeeded: Callable[[], None]) -> None:
        """Follow the table over a connection to the leader; raises the SwarmError that ended it."""
        self._confirmed = None
        self._has_table = False
        async with TaskOwner("ingress") as owner:
            watch = owner.spawn("watch", self._watch(connection, succeeded))
            confirm = owner.spawn("confirm", self._confirm(connection))
            done, _ = await asyncio.wait((watch, confirm), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task

    async def status(self) -> IngressStatus:
        """Return what the data plane does."""
        assert self._keeper is not None, "the keeper is there before anybody can ask"
        counts = await self._keeper.counts()
        tasks: dict[str, dict[str, int]] = {}
        for each in counts:
            for task_id, numbers in each.tasks.items():
                sums = tasks.setdefault(task_id, dict.fromkeys(_TRAFFIC, 0))
                for name in _TRAFFIC:
                    sums[name] += numbers[name]
        totals = {
            name: sum(each.worker[name] for each in counts) for name in ("open", "accepted", "refused", "retried")
        }
        kernel = self._kernel()
        return IngressStatus(
            epoch=-1 if self.book.epoch is None else self.book.epoch,
            workers=len(counts),
            closed_ports=dict(self._keeper.closed_ports),
            kernel_ports=kernel.ports,
            kernel_failure=kernel.failure,
            tasks=tuple(
                TaskTraffic(
                    task_id=task_id,
                    connects=_latency(each.connects.get(task_id) for each in counts),
                    answers=_latency(each.answers.get(task_id) for each in counts),
                    **sums,
                )
                for task_id, sums in sorted(tasks.items())
            ),
            latency_bounds_s=BOUNDS_S,
            **totals,
        )

    async def _watch(self, connection: Connection, succeeded: Callable[[], None]) -> None:
        """Take table after table; a gap opens the stream anew."""
        back_off = BackOff()
        while True:
            async with connection.open(routes.WATCH, WatchRoutes(mesh_port=self._mesh_port())) as updates:
                async for update in updates:
                    change = self.book.take(update)
                    if isinstance(change, Gap):
                        self._log.warning("route table has a gap", expected=change.expected, got=change.got)
                        break
                    self._log.debug("route table", epoch=change.epoch, full=change.full, routes=len(self.book.routes))
                    self._revoked(self.book.revoked)
                    assert self._keeper is not None, "the keeper is there before the first table"
                    succeeded()
                    self._has_table = True
                    self._keeper.take(change)
                else:
                    raise Unavailable("the leader ended the route table")
            await back_off.wait()

    async def _confirm(self, connection: Connection) -> None:
        """Confirm the newest epoch each time there is news; a leader that does not take it is about to be lost."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._confirmed is not None:
                with contextlib.suppress(SwarmError):
                    await connection.call(routes.ACK, self._confirmed)


def _latency(numbers: Iterable[list[float] | None]) -> LatencyCounts:
    """Return the latencies of all workers together."""
    total = Latency()
    for each in numbers:
        if each is not None:
            total.add(each)
    return LatencyCounts(sum_s=total.sum_s, counts=tuple(total.counts)) if any(total.counts) else LatencyCounts()
