"""The bus without sockets: for tests and the simulator. Passes the same contract suite as ``kit.bus.zmq``.

All buses of a test share one ``MemoryNetwork``; a bus lives on a named host, so that the network between two hosts can be slow, cut or
silent, as TCP would be: what a silence holds back arrives after it unless the connection was given up. Who a bus is is simply said (a
``Caller``). Frames are really encoded, and arrive in order through the event loop, never inside ``send``, in the context in which the
receiving bus was made: a simulator tells its processes apart by that.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

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
    Unauthenticated,
    Unavailable,
)
from services.kit.messages.method import MANAGER
from services.kit.runtime.changes import Changes

if TYPE_CHECKING:
    from services.kit.bus.identity import Identity

PIPE_FRAMES_MAX = 1000
FIRST_PORT = 20_000


class MemoryNetwork:
    """Everything that the buses of one test can reach, and what is wrong with it."""

    def __init__(self) -> None:
        self.delay_s: Callable[[str, str], float] = _no_delay
        """How long a frame travels from one host to another; 0 on the same host."""
        self.copies: Callable[[str, str, bytes], int] = _one_copy
        """How often a frame arrives: a test may lose or double those that may be lost or doubled."""
        self._listeners: dict[str, MemoryListener] = {}
        self._doors: dict[str, MemoryDoor] = {}
        self._stalled: set[tuple[str, str]] = set()
        self._moved = Changes()
        self._pairs: dict[_Pair, None] = {}
        self._next_port = FIRST_PORT

    def stall(self, source: str, target: str) -> None:
        """Hold back what one host sends to another, as a cable that is cut in one direction does."""
        self._stalled.add((source, target))

    def resume(self, source: str, target: str) -> None:
        """Let what was held back arrive."""
        self._stalled.discard((source, target))
        for pair in list(self._pairs):
            pair.resume(source, target)
        self._moved.announce()

    def silence(self, host: str, other: str) -> None:
        """Hold back everything between two hosts, as a cut cable does; connections find out by their heartbeats."""
        self.stall(host, other)
        self.stall(other, host)

    def restore(self, host: str, other: str) -> None:
        """End the silence; a connection that was not given up meanwhile goes on."""
        self.resume(host, other)
        self.resume(other, host)

    def cut(self, host: str, other: str) -> None:
        """Break all connections between two hosts at once, as a reset does; new ones can be made."""
        for pair in [pair for pair in self._pairs if pair.hosts == frozenset((host, other))]:
            pair.cut()

    async def travel(self, host: str, other: str, *, timeout_s: float, refusal: str) -> None:
        """Take the time of a first exchange between two hosts; raises DeadlineExceeded when they do not reach each other in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.is_stalled(host, other) or self.is_stalled(other, host):
                    await self._moved.wait()
                if host != other:
                    await asyncio.sleep(self.delay_s(host, other) + self.delay_s(other, host))
        except TimeoutError:
            raise DeadlineExceeded(f"{refusal} within {timeout_s:g} s") from None

    def free_port(self) -> int:
        """Return a port that nobody has had."""
        self._next_port += 1
        return self._next_port

    def is_stalled(self, source: str, target: str) -> bool:
        """Tell whether what one host sends to another is held back."""
        return (source, target) in self._stalled


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
        self.context = contextvars.copy_context()
        """What runs because of an arriving frame runs in this."""
        self._dead = False
        self._listeners: dict[MemoryListener, None] = {}
        self._doors: dict[MemoryDoor, None] = {}
        self._connections: dict[Dialled, None] = {}

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
        if listener is not None:
            await self.network.travel(
                self.host, listener.bus.host, timeout_s=timeout_s, refusal=f"{name} did not answer"
            )
            listener = self.network._listeners.get(name)
        if listener is None or self._dead:
            raise Unavailable(f"nobody listens on {name}")
        if not local and listener.bus.identity.role != MANAGER:
            raise PermissionDenied(f"{name} is not a manager")
        caller = (
            Caller(addr="uid:0", process=self.process)
            if local
            else msgspec.structs.replace(self.identity, addr=self.host, process=self.process)
        )
        connection = listener.accept(self, caller, Caller() if local else listener.bus.identity)
        self._connections[connection] = None
        return connection

    async def listen_local(self, path: str, handlers: Handlers, *, trusted: bool = True) -> MemoryListener:
        """Listen on a path of this bus's host."""
        return self._listen(self._local_name(path), path, handlers, local=True, trusted=trusted)

    async def listen_remote(self, host: str, port: int, handlers: Handlers, *, grace_s: float = 0.0) -> MemoryListener:
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
        self._doors[door] = None
        return door

    async def knock(self, host: str, port: int, *, timeout_s: float = 5.0) -> bytes:
        """Return the answer of a door."""
        name = format_address(host, port)
        await asyncio.sleep(0)
        door = self.network._doors.get(name)
        if door is None:
            raise Unavailable(f"no join door on {name}")
        await self.network.travel(self.host, door.host, timeout_s=timeout_s, refusal=f"no join door answered on {name}")
        return door.answer

    def die(self, *, silently: bool = False) -> None:
        """Be a process that was killed: nothing more is said or heard, and the kernel ends the connections.

        ``silently``: the whole machine went away; the other ends find out by their heartbeats.
        """
        self._dead = True
        for door in list(self._doors):
            self.network._doors.pop(door.endpoint, None)
        for listener in list(self._listeners):
            self.network._listeners.pop(listener._name, None)
        for pair in list(self.network._pairs):
            pair.die(self, silently=silently)

    async def close(self) -> None:
        """Close every connection and listener; idempotent."""
        for door in list(self._doors):
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
        self._listeners[listener] = None
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
        self._answered: dict[Answered, None] = {}
        self._leaving: dict[asyncio.Task[None], None] = {}

    def accept(self, dialler: MemoryBus, caller: Caller, server: Caller) -> Dialled:
        """Make both ends of a connection."""
        if caller.public_key and caller.public_key in self._revoked:
            raise Unauthenticated("the key is revoked")
        limits = self.bus.limits
        if is_anonymous(caller) and sum(is_anonymous(e.peer) for e in self._answered) >= limits.anonymous_peers_max:
            raise ResourceExhausted("too many peers without a certificate")
        pair = _Pair(self.bus.network, dialler, self.bus)
        heartbeat_s = min(dialler.limits.heartbeat_interval_s, limits.heartbeat_interval_s)
        frame_bytes_max = min(dialler.limits.frame_bytes_max, limits.frame_bytes_max)
        theirs = replace(dialler.limits, frame_bytes_max=frame_bytes_max)
        connection = Dialled(pair.near, peer=server, limits=theirs, heartbeat_s=heartbeat_s)
        end = self.bus.context.run(
            Answered, pair.far, self._table, peer=caller, limits=limits, inside=self._inside, on_broken=self._broken
        )
        pair.join(connection, end)
        connection.on_lost = lambda error: _drop(dialler._connections, connection)
        end.on_lost = lambda error: self._leave(end)
        self._answered[end] = None
        return connection

    def revoke(self, public_key: bytes) -> None:
        """Refuse this key from now on and cut its connections."""
        self._revoked.add(public_key)
        for end in [end for end in self._answered if end.peer.public_key == public_key]:
            end.kill(Unauthenticated("the key is revoked"))

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Stop accepting, let calls finish for a while, close; idempotent."""
        self.bus.network._listeners.pop(self._name, None)
        self.bus._listeners.pop(self, None)
        await drain(self._answered, drain_s)
        for end in list(self._answered):
            end.kill(Unavailable("the listener was closed"))
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _leave(self, end: Answered) -> None:
        self._answered.pop(end, None)
        for task in end.tasks():
            self._leaving[task] = None
            task.add_done_callback(lambda ended: _drop(self._leaving, ended))

    def _broken(self, error: BaseException) -> None:
        if self.bus.broken is None:
            self.bus.broken = asyncio.get_running_loop().create_future()
        if not self.bus.broken.done():
            self.bus.broken.set_result(error)


class _Pair:
    """The two wires of one connection."""

    def __init__(self, network: MemoryNetwork, near: MemoryBus, far: MemoryBus) -> None:
        self.network = network
        self.hosts = frozenset((near.host, far.host))
        self.near = _MemoryLink(self, near, far)
        self.far = _MemoryLink(self, far, near)
        self.near.other, self.far.other = self.far, self.near

    def join(self, connection: Dialled, end: Answered) -> None:
        """Connect the two ends."""
        self.near.owner, self.far.owner = connection, end
        self.network._pairs[self] = None

    def cut(self) -> None:
        """Break the connection as a reset does."""
        for link in (self.near, self.far):
            link.reset()
        self.forget()

    def die(self, bus: MemoryBus, *, silently: bool) -> None:
        """One end's process or machine is gone."""
        for link in (self.near, self.far):
            if link.bus is bus and silently:
                link.vanish()
            elif link.bus is bus:
                link.close()

    def resume(self, source: str, target: str) -> None:
        """Let the direction go on if it is this one."""
        for link in (self.near, self.far):
            if (link.source, link.target) == (source, target):
                link.go_on()

    def forget(self) -> None:
        """Take the connection off the network once nothing travels on it any more."""
        if self.near.idle and self.far.idle:
            self.network._pairs.pop(self, None)


class _MemoryLink:
    """One direction: a pipe whose frames arrive in order, each after its delay."""

    def __init__(self, pair: _Pair, bus: MemoryBus, target: MemoryBus) -> None:
        self.other: _MemoryLink
        self.owner: Channel
        self.bus = bus
        self.source = bus.host
        self.target = target.host
        self.closed = False
        self._pair = pair
        self._receiver = target.context
        self._pipe: deque[tuple[float, bytes | None]] = deque()
        """What travels, with the time of its arrival; None is the end of the wire."""
        self._loop = asyncio.get_running_loop()
        self._pumping = False

    @property
    def idle(self) -> bool:
        """True when nothing will ever arrive from here again."""
        return self.closed and not self._pipe

    def send(self, data: bytes) -> bool:
        """Put a frame into the pipe."""
        if self.closed:
            return True
        if len(self._pipe) >= PIPE_FRAMES_MAX:
            return False
        for _ in range(self._pair.network.copies(self.source, self.target, data)):
            self._put(data)
        return True

    def close(self) -> None:
        """Let the other end see the end of the wire after what is in the pipe."""
        if not self.closed:
            self.closed = True
            self._put(None)

    def vanish(self) -> None:
        """Say nothing any more, not even goodbye."""
        self.closed = True
        self._pipe.clear()

    def reset(self) -> None:
        """Tell the owner that the wire is gone."""
        if not self.closed:
            self._loop.call_soon(self.owner.lose, Unavailable("the connection was cut"), context=self.bus.context)
        self.vanish()

    def go_on(self) -> None:
        """Let arrive what was held back."""
        if self._pipe and not self._pumping:
            self._pumping = True
            self._schedule(self._pipe[0][0])

    def _put(self, data: bytes | None) -> None:
        network = self._pair.network
        delay_s = 0.0 if self.source == self.target else network.delay_s(self.source, self.target)
        due = self._loop.time() + delay_s
        if self._pipe:
            due = max(due, self._pipe[-1][0])
        self._pipe.append((due, data))
        self.go_on()

    def _schedule(self, due: float) -> None:
        if due <= self._loop.time():
            self._loop.call_soon(self._pump, context=self._receiver)
        else:
            self._loop.call_at(due, self._pump, context=self._receiver)

    def _pump(self) -> None:
        now = self._loop.time()
        stalled = self._pair.network.is_stalled(self.source, self.target)
        for _ in range(0 if stalled else len(self._pipe)):
            if not self._pipe or self._pipe[0][0] > now:
                break
            _, data = self._pipe.popleft()
            if not self.other.closed:
                self._arrive(data)
        if self._pipe and not stalled:
            self._schedule(self._pipe[0][0])
        else:
            self._pumping = False
            self._pair.forget()

    def _arrive(self, data: bytes | None) -> None:
        if data is None:
            self.other.closed = True
            self.other.owner.lose(Unavailable("the connection was closed by the other end"))
        else:
            self.other.owner.feed(data)


def _no_delay(source: str, target: str) -> float:
    return 0.0


def _one_copy(source: str, target: str, data: bytes) -> int:
    return 1


KeyT = TypeVar("KeyT")


def _drop(known: dict[KeyT, None], key: KeyT) -> None:
    known.pop(key, None)
