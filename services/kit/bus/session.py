"""One connection to the managers, kept for as long as a process wants it. Used by the agent and the gateway.

``ManagerLink`` dials a manager by weight, goes where an answer says that the leader is, and backs off while nothing works. Its user reports
how its calls went, because only they show whether a manager is of any use:

    connection = await link.connection()
    try:
        reply = await connection.call(...)
        link.succeeded()
    except SwarmError as error:
        await link.report(connection, error)

What must stay true: at most one connection at a time, and never two attempts in a row without a pause unless the second one goes
where the first was sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from services.kit.bus.api import Bus, Connection, RemoteAddress
from services.kit.bus.ports import parse_address
from services.kit.bus.remotes import FAILED, WORKED, Remotes
from services.kit.errors import DeadlineExceeded, SwarmError, Unauthenticated, Unavailable
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.log import Log

BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 8.0
DIAL_TIMEOUT_S = 5.0

_log = Log("managers")


class ManagerLink:
    """The way to the managers."""

    def __init__(self, bus: Bus, managers: Iterable[ManagerPeer], *, rng: random.Random) -> None:
        self.problem: SwarmError | None = None
        """What went wrong last; None once something has worked again."""
        self._bus = bus
        self._rng = rng
        self._remotes = Remotes(managers)
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._peer: ManagerPeer | None = None
        self._leader: ManagerPeer | None = None
        self._avoid: NodeId | None = None
        self._failures = 0
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def managers(self) -> tuple[ManagerPeer, ...]:
        """The managers that are known."""
        return self._remotes.peers

    @property
    def peer(self) -> ManagerPeer | None:
        """The manager at the other end, while there is a connection."""
        return self._peer if self._connection is not None else None

    def set_managers(self, managers: Iterable[ManagerPeer]) -> None:
        """Know exactly these managers from now on; a live connection goes on as it is."""
        self._remotes.replace(managers)
        self._changed.set()

    async def connection(self, *, timeout_s: float | None = None) -> Connection:
        """Return a live connection; waits until there is one, at most the time given, then raises the last problem.

        A manager that refuses this node is not waited for: Unauthenticated is raised at once, and the next call asks another one.
        """
        assert not self._closed, "the link is closed"
        try:
            async with asyncio.timeout(timeout_s), self._lock:
                return await self._live()
        except TimeoutError:
            raise self.problem or DeadlineExceeded(f"no manager answered within {timeout_s} s") from None

    def succeeded(self) -> None:
        """A call worked: the manager is a good one, and the next failure is a first one."""
        self._failures = 0
        self.problem = None
        if self._peer is not None:
            self._remotes.observe(self._peer.node_id, WORKED)

    async def report(self, connection: Connection, error: SwarmError) -> None:
        """A call failed: Unavailable means that another manager must be asked, the leader if it was named; other errors change nothing.

        What is said of a connection that has been replaced already is ignored.
        """
        if not isinstance(error, Unavailable) or self._peer is None or connection is not self._connection:
            return
        leader = self._remotes.find(node_id=error.details.leader, addr=error.details.leader_addr)
        if leader is not None and leader != self._peer:
            self._leader = leader
            self._failures += 1
        else:
            self._failed(self._peer, error)
        await self._leave()

    async def close(self) -> None:
        """Say goodbye; idempotent."""
        self._closed = True
        await self._leave()

    async def _live(self) -> Connection:
        while True:
            if self._connection is not None and self._peer is not None:
                if self._connection.lost is None:
                    return self._connection
                self._failed(self._peer, self._connection.lost)
                await self._leave()
            await self._attempt()

    async def _attempt(self) -> None:
        """Dial once, after the pause that is due."""
        await self._pause()
        leader, self._leader = self._leader, None
        peer = leader or self._select()
        if peer is None:
            self._failures += 1
            self.problem = Unavailable("no manager is known")
            return
        try:
            host, port = parse_address(peer.addr)
            address = RemoteAddress(host=host, port=port, certificate=peer.certificate)
            self._connection = await self._bus.dial(address, timeout_s=DIAL_TIMEOUT_S)
        except SwarmError as error:
            self._failed(peer, error)
            if isinstance(error, Unauthenticated):
                raise
            return
        self._peer = peer
        _log.debug("manager dialled", manager=peer.node_id, addr=peer.addr)

    def _select(self) -> ManagerPeer | None:
        avoid = () if self._avoid is None else (self._avoid,)
        return self._remotes.select(self._rng, avoid) or self._remotes.select(self._rng)

    def _failed(self, peer: ManagerPeer, error: SwarmError) -> None:
        self.problem = error
        self._failures += 1
        self._avoid = peer.node_id
        self._remotes.observe(peer.node_id, FAILED)
        _log.debug("manager failed", manager=peer.node_id, addr=peer.addr, reason=str(error))

    async def _pause(self) -> None:
        """Wait before an attempt that follows a failure, or until the managers change. The first hint at a leader is followed at once."""
        if self._failures == 0 or (self._leader is not None and self._failures == 1):
            return
        longest_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** min(self._failures, 16))
        self._changed.clear()
        try:
            async with asyncio.timeout(self._rng.uniform(BACK_OFF_FIRST_S, longest_s)):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _leave(self) -> None:
        connection, self._connection, self._peer = self._connection, None, None
        if connection is not None:
            await connection.close()
