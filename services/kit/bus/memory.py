"""The bus without sockets: for tests and the simulator. Passes the same contract suite as ``kit.bus.zmq``.

All buses of a test share one ``MemoryNetwork``; a bus lives on a named host, so that the network between two hosts can be slow, cut or
silent. Who a bus is is simply said (a ``Caller``). Frames are really encoded, and arrive in order through the event loop, never inside
``send``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from services.kit.bus.answered import Answered, drain, is_anonymous
from services.kit.bus.api import Address, Caller, Handlers, Limits, LocalAddress
from services.kit.bus.channel import Channel
from services.kit.bus.dialled import Dialled
from services.kit.bus.ports import format_address
from services.kit.bus.rpc import Table
from services.kit.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    PermissionDenied,
    ResourceExhausted,
    SwarmError,
    Unauthenticated,
    Unavailable,
)
from services.kit.messages.method import MANAGER

if TYPE_CHECKING:
    from services.kit.bus.identity import Identity

PIPE_FRAMES_MAX = 1000
FIRST_PORT = 20_000


class MemoryNetwork:
    """Everything that the buses of one test can reach, and what is wrong with it."""

    def __init__(self) -> None:
        self.delay_s: Callable[[str, str], float] = _no_delay
        """How long a frame travels from one host to another; 0 on the same host."""
        self._listeners: dict[str, MemoryListener] = {}
        self._doors: dict[str, MemoryDoor] = {}
        self._silent: set[frozenset[str]] = set()
        self._pairs: set[_Pair] = set()
        self._next_port = FIRST_PORT

    def silence(self, host: str, other: str) -> None:
        """Let frames between two hosts vanish, as a cut cable does; connections find out by their heartbeats."""
        self._silent.add(frozenset((host, other)))

    def restore(self, host: str, other: str) -> None:
        """End the silence; frames that vanished stay lost, and so do the connections they belonged to."""
        self._silent.discard(frozenset((host, other)))

    def cut(self, host: str, other: str) -> None:
        """Break all connections between two hosts at once, as a reset does; new ones can be made."""
        for pair in [pair for pair in self._pairs if pair.hosts == frozenset((host, other))]:
            pair.cut()

    def free_port(self) -> int:
        """Return a port that nobody has had."""
        self._next_port += 1
        return self._next_port

    def is_silent(self, host: str, other: str) -> bool:
        """Tell whether frames between two hosts vanish."""
        return frozenset((host, other)) in self._silent


class MemoryBus:
    """Makes connections and listeners inside a ``MemoryNetwork`` (see ``api.Bus``)."""

    def __init__(
        self,
        network: MemoryNetwork,
        identity: Caller | None = None,
        *,
        host: str = "",
        limits: Limits | None = None,
        process: str = "",
    ) -> None:
        self.identity = identity or Caller()
        self.host = host
        self.limits = limits or Limits()
        self.process = process
        self.network = network
        self.broken: asyncio.Future[BaseException] | None = None
        self._listeners: set[MemoryListener] = set()
        self._doors: set[MemoryDoor] = set()
        self._connections: set[Dialled] = set()

    def set_identity(self, identity: Identity) -> None:
        """Be this node for new connections."""
        self.identity = Caller(
            node_id=identity.node_id,
            role=identity.role,
            cluster_id=identity.cluster_id,
            public_key=identity.public_key,
        )

    async def failed(self) -> BaseException:
        """Wait for a broken invariant in a handler and return it."""
        if self.broken is None:
            self.broken = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self.broken)

    async def dial(self, address: Address, *, timeout_s: float = 5.0) -> Dialled:
        """Make one attempt to connect."""
        local = isinstance(address, LocalAddress)
        name = (
            self._local_name(address.path)
            if isinstance(address, LocalAddress)
            else format_address(address.host, address.port)
        )
        await asyncio.sleep(0)
        listener = self.network._listeners.get(name)
        if listener is None:
            raise Unavailable(f"nobody listens on {name}")
        if self.network.is_silent(self.host, listener.bus.host):
            await asyncio.sleep(timeout_s)
            raise DeadlineExceeded(f"{name} did not answer within {timeout_s:g} s")
        if not local and listener.bus.identity.role != MANAGER:
            raise PermissionDenied(f"{name} is not a manager")
        caller = (
            Caller(addr="uid:0", process=self.process)
            if local
            else msgspec.structs.replace(self.identity, addr=self.host, process=self.process)
        )
        connection = listener.accept(self, caller, Caller() if local else listener.bus.identity)
        self._connections.add(connection)
        return connection

    async def listen_local(self, path: str, handlers: Handlers, *, trusted: bool = True) -> MemoryListener:
        """Listen on a path of this bus's host."""
        return self._listen(self._local_name(path), path, handlers, local=True, trusted=trusted)

    async def listen_remote(self, host: str, port: int, handlers: Handlers) -> MemoryListener:
        """Listen on an address that all hosts reach."""
        if not self.identity.role:
            raise FailedPrecondition("only a node with a certificate can listen")
        name = format_address(host, port or self.network.free_port())
        return self._listen(name, name, handlers, local=False, trusted=False)

    async def open_door(self, host: str, port: int, answer: bytes) -> MemoryDoor:
        """Answer everybody on an address."""
        name = format_address(host, port or self.network.free_port())
        if name in self.network._doors:
            raise FailedPrecondition(f"somebody listens on {name} already")
        door = self.network._doors[name] = MemoryDoor(self.network, name, self.host, answer)
        self._doors.add(door)
        return door

    async def knock(self, host: str, port: int, *, timeout_s: float = 5.0) -> bytes:
        """Return the answer of a door."""
        name = format_address(host, port)
        await asyncio.sleep(0)
        door = self.network._doors.get(name)
        if door is None:
            raise Unavailable(f"no join door on {name}")
        if self.network.is_silent(self.host, door.host):
            await asyncio.sleep(timeout_s)
            raise DeadlineExceeded(f"no join door answered on {name} within {timeout_s:g} s")
        return door.answer

    async def close(self) -> None:
        """Close every connection and listener; idempotent."""
        for door in self._doors:
            await door.close()
        for listener in list(self._listeners):
            await listener.close()
        for connection in list(self._connections):
            await connection.close()

    def _listen(self, name: str, endpoint: str, handlers: Handlers, *, local: bool, trusted: bool) -> MemoryListener:
        if name in self.network._listeners:
            raise FailedPrecondition(f"somebody listens on {endpoint} already")
        assert isinstance(handlers, Table), "handlers are kept in a Table"
        listener = MemoryListener(self, name, endpoint, handlers, local=local, trusted=trusted)
        self.network._listeners[name] = listener
        self._listeners.add(listener)
        return listener

    def _local_name(self, path: str) -> str:
        return f"{self.host}:{path}"


class MemoryDoor:
    """A door (see ``api.Door``)."""

    def __init__(self, network: MemoryNetwork, endpoint: str, host: str, answer: bytes) -> None:
        self.endpoint = endpoint
        self.host = host
        self.answer = answer
        self._network = network

    async def close(self) -> None:
        """Close it; idempotent."""
        if self._network._doors.get(self.endpoint) is self:
            del self._network._doors[self.endpoint]


class MemoryListener:
    """The answering side of a ``MemoryBus`` (see ``api.Listener``)."""

    def __init__(self, bus: MemoryBus, name: str, endpoint: str, table: Table, *, local: bool, trusted: bool) -> None:
        self.bus = bus
        self.endpoint = endpoint
        self._name = name
        self._table = table
        self._local = local
        self._inside = local and trusted
        self._revoked: set[bytes] = set()
        self._answered: set[Answered] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    def accept(self, dialler: MemoryBus, caller: Caller, server: Caller) -> Dialled:
        """Make both ends of a connection."""
        if caller.public_key and caller.public_key in self._revoked:
            raise Unauthenticated("the key is revoked")
        limits = self.bus.limits
        if is_anonymous(caller) and sum(is_anonymous(e.peer) for e in self._answered) >= limits.anonymous_peers_max:
            raise ResourceExhausted("too many peers without a certificate")
        pair = _Pair(self.bus.network, dialler.host, self.bus.host)
        heartbeat_s = min(dialler.limits.heartbeat_interval_s, limits.heartbeat_interval_s)
        frame_bytes_max = min(dialler.limits.frame_bytes_max, limits.frame_bytes_max)
        theirs = replace(dialler.limits, frame_bytes_max=frame_bytes_max)
        connection = Dialled(pair.near, peer=server, limits=theirs, heartbeat_s=heartbeat_s)
        end = Answered(pair.far, self._table, peer=caller, limits=limits, inside=self._inside, on_broken=self._broken)
        pair.join(connection, end)
        connection.on_lost = lambda error: dialler._connections.discard(connection)
        end.on_lost = lambda error: self._leave(end)
        self._answered.add(end)
        return connection

    def revoke(self, public_key: bytes) -> None:
        """Refuse this key from now on and cut its connections."""
        self._revoked.add(public_key)
        for end in [end for end in self._answered if end.peer.public_key == public_key]:
            end.kill(Unauthenticated("the key is revoked"))

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Stop accepting, let calls finish for a while, close; idempotent."""
        self.bus.network._listeners.pop(self._name, None)
        self.bus._listeners.discard(self)
        await drain(self._answered, drain_s)
        for end in list(self._answered):
            end.kill(Unavailable("the listener was closed"))
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _leave(self, end: Answered) -> None:
        self._answered.discard(end)
        for task in end.tasks():
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _broken(self, error: BaseException) -> None:
        if self.bus.broken is None:
            self.bus.broken = asyncio.get_running_loop().create_future()
        if not self.bus.broken.done():
            self.bus.broken.set_result(error)


class _Pair:
    """The two wires of one connection."""

    def __init__(self, network: MemoryNetwork, near_host: str, far_host: str) -> None:
        self.network = network
        self.hosts = frozenset((near_host, far_host))
        self.near = _MemoryLink(self, near_host, far_host)
        self.far = _MemoryLink(self, far_host, near_host)
        self.near.other, self.far.other = self.far, self.near

    def join(self, connection: Dialled, end: Answered) -> None:
        """Connect the two ends."""
        self.near.owner, self.far.owner = connection, end
        self.network._pairs.add(self)

    def cut(self) -> None:
        """Break the connection as a reset does."""
        self.forget()
        for link in (self.near, self.far):
            link.tell_lost(Unavailable("the connection was cut"))

    def forget(self) -> None:
        """Take the connection off the network."""
        self.network._pairs.discard(self)


class _MemoryLink:
    """One direction: a pipe whose frames arrive in order, each after its delay."""

    def __init__(self, pair: _Pair, source: str, target: str) -> None:
        self.other: _MemoryLink
        self.owner: Channel
        self.closed = False
        self._pair = pair
        self._source = source
        self._target = target
        self._pipe: deque[tuple[float, bytes | None]] = deque()
        """What travels, with the time of its arrival; None is the end of the wire."""
        self._loop = asyncio.get_running_loop()
        self._pumping = False

    def send(self, data: bytes) -> bool:
        """Put a frame into the pipe."""
        if self.closed:
            return True
        if len(self._pipe) >= PIPE_FRAMES_MAX:
            return False
        self._put(data)
        return True

    def close(self) -> None:
        """Let the other end see the end of the wire after what is in the pipe."""
        if not self.closed:
            self.closed = True
            self._pair.forget()
            self._put(None)

    def tell_lost(self, error: SwarmError) -> None:
        """Tell the owner that the wire is gone."""
        self.closed = True
        self._loop.call_soon(self.owner.lose, error)

    def _put(self, data: bytes | None) -> None:
        network = self._pair.network
        if network.is_silent(self._source, self._target):
            return
        delay_s = 0.0 if self._source == self._target else network.delay_s(self._source, self._target)
        due = self._loop.time() + delay_s
        if self._pipe:
            due = max(due, self._pipe[-1][0])
        self._pipe.append((due, data))
        if not self._pumping:
            self._pumping = True
            self._schedule(due)

    def _schedule(self, due: float) -> None:
        if due <= self._loop.time():
            self._loop.call_soon(self._pump)
        else:
            self._loop.call_at(due, self._pump)

    def _pump(self) -> None:
        now = self._loop.time()
        for _ in range(len(self._pipe)):
            due, data = self._pipe[0]
            if due > now:
                break
            self._pipe.popleft()
            if not self.other.closed:
                self._arrive(data)
        if self._pipe:
            self._schedule(self._pipe[0][0])
        else:
            self._pumping = False

    def _arrive(self, data: bytes | None) -> None:
        if data is None:
            self.other.closed = True
            self.other.owner.lose(Unavailable("the connection was closed by the other end"))
        else:
            self.other.owner.feed(data)


def _no_delay(source: str, target: str) -> float:
    return 0.0
