"""Takes a request to the process that answers it, undecoded: this node's own, or the leader's by way of its gateway.

Called by the doors with the caller already decided. What must stay true: every attempt ends by the caller's deadline; the stamp that
leaves here is the gateway's own; what to do after a failure is decided in ``core.forwarding`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from services.gateway.core.forwarding import AskLeader, Attempt, AwaitChange, Origin, after
from services.gateway.shell.leadership import Leadership
from services.kit.bus.api import Bus, Connection, Meta, RemoteAddress
from services.kit.bus.ports import parse_address
from services.kit.errors import SwarmError, Unavailable
from services.kit.messages.method import Owner
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.kit.store.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call or stream on its way."""

    name: str
    owner: Owner
    origin: Origin
    may_repeat: bool
    """Running it twice does no harm."""
    body: bytes = field(repr=False)
    meta: Meta
    """With the stamp of this gateway."""
    deadline: float
    """On the monotonic clock; for a stream, until its first item."""


class Proxy:
    """The way from a door to an owner."""

    def __init__(self, bus: Bus, clock: Clock, node_id: str, owners: dict[Owner, Line], leadership: Leadership) -> None:
        self._bus = bus
        self._clock = clock
        self._node_id = node_id
        self._owners = owners
        self._leadership = leadership
        self._leaders: dict[NodeId, tuple[ManagerPeer, Line]] = {}
        self._log = Log("proxy")

    async def call(self, request: Request) -> bytes:
        """Return the reply's body; raises the SwarmError that the caller gets."""
        way = _Way(self, request)
        while True:
            try:
                connection = await way.connection()
                return await connection.call_raw(
                    request.name, request.body, timeout_s=self.remaining_s(request), meta=way.meta
                )
            except SwarmError as error:
                await way.failed(error)

    async def feed(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the items' bodies; after the first one an error ends the stream."""
        way = _Way(self, request)
        begun = False
        while True:
            try:
                connection = await way.connection()
                async with connection.open_raw(request.name, request.body, meta=way.meta) as items:
                    async for item in items:
                        begun = True
                        yield item
                    return
            except SwarmError as error:
                if begun:
                    raise
                await way.failed(error)

    async def close(self) -> None:
        """Close the lines to other managers."""
        for _, line in self._leaders.values():
            await line.close()

    def remaining_s(self, request: Request) -> float:
        """Return the time left for a request."""
        return request.deadline - self._clock.monotonic()

    async def next_step(self, request: Request, attempt: Attempt) -> tuple[ManagerPeer | None, int]:
        """Return the leader to ask next, or None for this node's own process, and how many attempts count from now on.

        After a change of leadership they are counted anew: the new leader's processes need a few milliseconds more than raft, and
        a long pause would have come from the time without a leader. Raises when the caller gets the error.
        """
        step = after(attempt, origin=request.origin, may_repeat=request.may_repeat, me=self._node_id)
        if isinstance(step, AskLeader):
            leader = self._leadership.peer(step.node_id, step.addr)
            if leader is not None:
                return leader, attempt.number
            self._log.debug("leader unknown", leader=step.node_id)
            step = AwaitChange(at_most_s=0.2)
        if not isinstance(step, AwaitChange) or self.remaining_s(request) <= 0:
            raise attempt.error
        changed = await self._leadership.change(min(step.at_most_s, self.remaining_s(request)))
        return None, 0 if changed else attempt.number

    async def own(self, owner: Owner) -> Connection:
        """Return a connection to one of this node's processes."""
        return await self._owners[owner].connection()

    async def to(self, leader: ManagerPeer) -> Connection:
        """Return the connection to a leader's gateway; that of an earlier leader stays, because calls may be under way there."""
        known, line = self._leaders.get(leader.node_id, (None, None))
        if line is None or known != leader:
            if line is not None:
                await line.close()
            line = Line(lambda: self._dial(leader))
            self._leaders[leader.node_id] = (leader, line)
        return await line.connection()

    async def _dial(self, leader: ManagerPeer) -> Connection:
        host, port = parse_address(leader.addr)
        return await self._bus.dial(RemoteAddress(host=host, port=port, certificate=leader.certificate), timeout_s=2.0)


class _Way:
    """Where one request stands."""

    def __init__(self, proxy: Proxy, request: Request) -> None:
        self._proxy = proxy
        self._request = request
        self._leader: ManagerPeer | None = None
        self._attempts = 0

    @property
    def meta(self) -> Meta:
        """What travels with the next attempt."""
        meta = self._request.meta
        return Meta(
            caller=meta.caller,
            forwarded=meta.forwarded or self._leader is not None,
            cause=meta.cause,
            request_id=meta.request_id,
        )

    async def connection(self) -> Connection:
        """Return the connection for the next attempt; every failure to get one is Unavailable, and nothing has run."""
        try:
            if self._leader is None:
                return await self._proxy.own(self._request.owner)
            return await self._proxy.to(self._leader)
        except SwarmError as error:
            raise Unavailable(f"{self._asked or self._request.owner.value} cannot be reached: {error}") from error

    async def failed(self, error: SwarmError) -> None:
        """Get ready for the next attempt, or raise what the caller gets."""
        self._attempts += 1
        attempt = Attempt(number=self._attempts, asked=self._asked, error=error)
        self._leader, self._attempts = await self._proxy.next_step(self._request, attempt)

    @property
    def _asked(self) -> str:
        return self._leader.node_id if self._leader is not None else ""
