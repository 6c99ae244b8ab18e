"""The bus over ZeroMQ (with the ``zmq_*`` files beside it the only door to zmq): CURVE over TCP between nodes, Unix sockets inside one.

One per process, made after the process was started (never before a fork), used from one event loop. Nothing is opened before the first dial
or listen, and nothing is left after ``close``. See docs/protocol.md for what goes over the wire.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from services.kit.bus import zmq_door
from services.kit.bus.api import Address, Caller, Handlers, Limits, LocalAddress
from services.kit.bus.dialled import Dialled
from services.kit.bus.ports import format_address
from services.kit.bus.rpc import Table
from services.kit.bus.zmq_desk import Desk, LocalDesk, RemoteDesk
from services.kit.bus.zmq_dialler import Attempt, Curve, dial
from services.kit.bus.zmq_listener import ZmqListener
from services.kit.bus.zmq_local import ClaimedSocket, check_owner
from services.kit.bus.zmq_socket import Context, Socket, new_context, tune
from services.kit.bus.zmq_zap import ZapHandler
from services.kit.errors import (
    DeadlineExceeded,
    Distrusted,
    FailedPrecondition,
    PermissionDenied,
    SwarmError,
    Unauthenticated,
    Unavailable,
)
from services.kit.messages.method import MANAGER
from services.kit.runtime.clock import Clock
from services.kit.wire import frames

if TYPE_CHECKING:  # local sockets need no certificates, and reading them needs a large library
    from services.kit.bus.identity import Identity

RESOLVE_TIMEOUT_S = 5.0
_BACKLOG = 4096


class ZmqBus:
    """Makes connections and listeners (see ``api.Bus``)."""

    def __init__(
        self, identity: Identity | None = None, *, clock: Clock, limits: Limits | None = None, process: str = ""
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._limits = limits or Limits()
        self._process = process
        self._context: Context | None = None
        self._zap: ZapHandler | None = None
        self._listeners: set[ZmqListener] = set()
        self._doors: set[zmq_door.ZmqDoor] = set()
        self._connections: set[Dialled] = set()
        self._broken: asyncio.Future[BaseException] | None = None
        self._closed = False

    @property
    def identity(self) -> Identity:
        """Who this process is on the network; raises FailedPrecondition before it has an identity."""
        if self._identity is None:
            raise FailedPrecondition("this process has no identity yet")
        return self._identity

    def set_identity(self, identity: Identity) -> None:
        """Be this node from now on: in new dials, and in the greetings of new peers. Live connections go on as they are."""
        self._identity = identity

    async def failed(self) -> BaseException:
        """Wait for a broken invariant in a handler, which is the end of the process, and return it."""
        if self._broken is None:
            self._broken = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._broken)

    async def dial(self, address: Address, *, timeout_s: float = 5.0) -> Dialled:
        """Make one attempt to connect."""
        context = self._open()
        deadline = asyncio.get_running_loop().time() + timeout_s
        failure: SwarmError = Unavailable("no address to dial")
        for attempt in await self._attempts(address, timeout_s):
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            try:
                connection = await dial(context, attempt, self._limits, left_s)
            except Unavailable as error:
                failure = error
                continue
            self._connections.add(connection)
            connection.on_lost = _discard(self._connections, connection)
            return connection
        raise failure

    async def listen_local(self, path: str, handlers: Handlers, *, trusted: bool = True) -> ZmqListener:
        """Listen on a Unix socket (0600); refuses a path on which somebody already listens."""
        claimed = ClaimedSocket(path)
        desk = LocalDesk(trusted=trusted, leave=claimed.remove)
        listening, domain = self._router(desk)
        try:
            listening.setsockopt(zmq.USE_FD, claimed.descriptor)
            listening.bind(f"ipc://{path}")
        except zmq.ZMQError as error:
            listening.close(0)
            claimed.close()
            raise FailedPrecondition(f"cannot listen on {path}: {error}") from None
        claimed.hand_over()
        return self._listener(listening, domain, path, desk, handlers)

    async def listen_remote(self, host: str, port: int, handlers: Handlers, *, grace_s: float = 0.0) -> ZmqListener:
        """Listen on TCP under CURVE with this process's identity; port 0 picks one."""
        identity = self.identity
        if not identity.certificate:
            raise FailedPrecondition("only a node with a certificate can listen")
        number = (await _resolve(host, port))[0]
        desk = RemoteDesk(lambda: self.identity, self._clock, grace_s=grace_s)
        listening, domain = self._router(desk)
        listening.setsockopt(zmq.BACKLOG, _BACKLOG)
        listening.setsockopt(zmq.CURVE_SERVER, 1)
        listening.setsockopt(zmq.CURVE_SECRETKEY, identity.key.secret)
        endpoint = _bind(listening, host, number, port)
        return self._listener(listening, domain, endpoint, desk, handlers)

    async def open_door(self, host: str, port: int, answer: bytes) -> zmq_door.ZmqDoor:
        """Answer everybody on a TCP port, before any authentication."""
        number = (await _resolve(host, port))[0]
        context = self._open()
        listening = zmq_door.door_socket(context)
        door = zmq_door.ZmqDoor(context, listening, _bind(listening, host, number, port), answer)
        self._doors.add(door)
        return door

    async def knock(self, host: str, port: int, *, timeout_s: float = 5.0) -> bytes:
        """Return the answer of a door; raises Unavailable or DeadlineExceeded."""
        number = (await _resolve(host, port, timeout_s))[0]
        endpoint = f"tcp://{format_address(number, port)}"
        return await zmq_door.knock(self._open(), endpoint, format_address(host, port), timeout_s)

    async def close(self) -> None:
        """Close every connection and listener; idempotent."""
        self._closed = True
        for door in self._doors:
            await door.close()
        for listener in list(self._listeners):
            await listener.close()
        for connection in list(self._connections):
            await connection.close()
        if self._zap is not None:
            self._zap.close()
        if self._context is not None:
            context, self._context = self._context, None
            context.destroy(0)

    def _open(self) -> Context:
        assert not self._closed, "the bus is closed"
        if self._context is None:
            self._context = new_context()
            self._zap = ZapHandler(self._context)
        return self._context

    def _router(self, desk: Desk) -> tuple[Socket, bytes]:
        """Make a listener's socket, guarded before it can be bound."""
        listening = self._open().socket(zmq.ROUTER)
        tune(listening, frame_bytes_max=self._limits.frame_bytes_max)
        listening.setsockopt(zmq.ROUTER_MANDATORY, 1)
        assert self._zap is not None
        return listening, self._zap.guard(listening, desk.judge)

    def _listener(self, listening: Socket, domain: bytes, endpoint: str, desk: Desk, handlers: Handlers) -> ZmqListener:
        assert isinstance(handlers, Table), "handlers are kept in a Table"
        assert self._zap is not None
        zap = self._zap
        listener = ZmqListener(
            self._open(),
            listening,
            endpoint=endpoint,
            desk=desk,
            table=handlers,
            limits=self._limits,
            on_broken=self._on_broken,
        )

        def closed() -> None:
            zap.release(domain)
            self._listeners.discard(listener)

        listener.on_closed = closed
        self._listeners.add(listener)
        return listener

    async def _attempts(self, address: Address, timeout_s: float) -> list[Attempt]:
        """Return what to try for an address: a host's name may have several numbers."""
        if isinstance(address, LocalAddress):
            check_owner(address.path)
            return [
                Attempt(
                    endpoint=f"ipc://{address.path}",
                    shown=address.path,
                    hello=frames.Hello(frames.VERSION, frames.VERSION, b"", self._process),
                    curve=None,
                    check=_nobody,
                )
            ]
        identity = self.identity
        server_key = identity.key_in(address.certificate)
        self._check_manager(identity, address.certificate, server_key, math.inf)
        curve = Curve(secret=identity.key.secret, public=identity.key.public, server=server_key)
        numbers = await _resolve(address.host, address.port, timeout_s)
        return [
            Attempt(
                endpoint=f"tcp://{format_address(number, address.port)}",
                shown=format_address(address.host, address.port),
                hello=frames.Hello(
                    frames.VERSION,
                    frames.VERSION,
                    b"" if address.incognito else identity.certificate,
                    self._process,
                ),
                curve=curve,
                check=lambda certificate: self._check_manager(identity, certificate, server_key, address.grace_s),
            )
            for number in numbers
        ]

    def _check_manager(self, identity: Identity, certificate: bytes, server_key: bytes, grace_s: float) -> Caller:
        try:
            caller = identity.check(certificate, server_key, now=self._clock.wall(), grace_s=grace_s)
        except Unauthenticated as error:
            raise Distrusted(str(error)) from None
        if caller.role != MANAGER:
            raise PermissionDenied(f"{caller.node_id} is not a manager")
        return caller

    def _on_broken(self, error: BaseException) -> None:
        if self._broken is None:
            self._broken = asyncio.get_running_loop().create_future()
        if not self._broken.done():
            self._broken.set_result(error)


def _nobody(certificate: bytes) -> Caller:
    """Local listeners show no certificate: the directory's mode is the proof."""
    return Caller()


def _discard(connections: set[Dialled], connection: Dialled) -> Callable[[SwarmError], None]:
    def on_lost(error: SwarmError) -> None:
        connections.discard(connection)

    return on_lost


def _bind(listening: Socket, host: str, number: str, port: int) -> str:
    """Bind a TCP socket and return where it listens; closes it and raises FailedPrecondition when that cannot be."""
    try:
        listening.bind(f"tcp://{format_address(number, port)}")
    except zmq.ZMQError as error:
        listening.close(0)
        raise FailedPrecondition(f"cannot listen on {format_address(host, port)}: {error}") from None
    bound = listening.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
    return format_address(host, int(bound.rpartition(":")[2]))


async def _resolve(host: str, port: int, timeout_s: float = RESOLVE_TIMEOUT_S) -> list[str]:
    """Return the numeric addresses of a host; libzmq itself would resolve in its io thread, where it stops everything."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise DeadlineExceeded(f"{host} was not resolved within {timeout_s:g} s") from None
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{host} cannot be resolved: {error}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
