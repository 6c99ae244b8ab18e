"""What a bus offers, whatever carries it. ``kit.bus.zmq`` and ``kit.bus.memory`` pass the same contract suite.

A connection is made by one side (the dialler) and answered by the other (the listener); only the dialler calls. Every call
has a deadline, every stream has byte credit, and losing the connection fails all that was under way with ``Unavailable``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from services.kit.errors import SwarmError
from services.kit.messages.method import Call, Cast, Feed
from services.kit.model.value import Value

if TYPE_CHECKING:
    from services.kit.bus.identity import Identity

RequestT = TypeVar("RequestT", bound=Value)
ReplyT = TypeVar("ReplyT", bound=Value)
ItemT = TypeVar("ItemT", bound=Value)


class Caller(Value, frozen=True, kw_only=True):
    """Who asks. Stamped by the listener (direct peers) or by the gateway (forwarded calls)."""

    node_id: str = ""
    """CN of the certificate; empty for a caller without one."""
    role: str = ""
    """OU of the certificate: swarm-manager, swarm-worker, or empty."""
    cluster_id: str = ""
    """O of the certificate."""
    addr: str = ""
    """Host it came from; ``uid:<n>`` over a local socket."""
    public_key: bytes = b""
    """The 32-byte key CURVE authenticated; empty over a local socket."""
    process: str = ""
    """The name a local process gave in its HELLO; means something only inside the 0700 directory."""


class Meta(Value, frozen=True, kw_only=True):
    """What travels beside a request."""

    caller: Caller | None = None
    """The stamp of a gateway. Trusted by inner processes only."""
    forwarded: bool = False
    """True once the call went from one manager to another; it never does so twice."""
    cause: str = ""
    """Id of what set this off, for logs and events."""
    request_id: str = ""
    """Idempotency key of the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Written bounds of a connection, and what happens at them."""

    frame_bytes_max: int = 4 << 20
    """A larger frame cuts the connection."""
    window_bytes: int = 256 << 10
    """Credit of a stream; its sender waits when it is used up (one item may overdraw it)."""
    calls_max: int = 1024
    """Calls under way per connection; more are answered ResourceExhausted."""
    anonymous_calls_max: int = 16
    """The same for a peer without certificate."""
    anonymous_peers_max: int = 64
    """Peers without certificate per listener; more are sent away."""
    outbox_bytes_max: int = 8 << 20
    """Bytes waiting for a peer that does not read; more kills the connection."""
    heartbeat_interval_s: float = 5.0
    """The dialler pings this often; either side gives up after three silent intervals."""
    hello_timeout_s: float = 45.0
    """A connection without HELLO is cut after this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a handler knows besides the request."""

    caller: Caller
    """Who asks: the stamp of the meta when the peer may stamp, else the peer itself."""
    peer: Caller
    """The other end of this very connection."""
    meta: Meta
    remaining_s: float | None
    """Time left until the caller's deadline; None for streams."""
    method: str = ""
    """Name of the method that was called."""


CallHandler = Callable[[Context, RequestT], Awaitable[ReplyT]]
FeedHandler = Callable[[Context, RequestT], AsyncIterator[ItemT]]
CastHandler = Callable[[Context, RequestT], None]
RawCallHandler = Callable[[Context, bytes], Awaitable[bytes]]
RawFeedHandler = Callable[[Context, bytes], AsyncIterator[bytes]]


class Handlers(Protocol):
    """What a listener answers; ``kit.bus.rpc.Table`` is the implementation.

    The table checks the method's roles against the direct peer before a handler runs: default deny. A listener inside the
    node (ipc) is built with ``trusted=True`` and accepts the stamps of its peers instead.
    """

    def on_call(self, method: Call[RequestT, ReplyT], handler: CallHandler[RequestT, ReplyT]) -> None:
        """Answer a call."""

    def on_feed(self, method: Feed[RequestT, ItemT], handler: FeedHandler[RequestT, ItemT]) -> None:
        """Answer a stream; the async iterator is closed when the caller leaves."""

    def on_cast(self, method: Cast[RequestT], handler: CastHandler[RequestT]) -> None:
        """Take casts; the handler must not wait."""

    def forward_call(self, method: Call[RequestT, ReplyT], handler: RawCallHandler) -> None:
        """Answer a call from undecoded bytes (proxies)."""

    def forward_feed(self, method: Feed[RequestT, ItemT], handler: RawFeedHandler) -> None:
        """Answer a stream from undecoded bytes (proxies)."""


class Connection(Protocol):
    """One dialled connection. It does not come back when lost: dial again."""

    @property
    def peer(self) -> Caller:
        """The listener, from its checked certificate (empty over a local socket)."""

    @property
    def lost(self) -> SwarmError | None:
        """Why nothing new can be asked here (it is gone, or the peer is about to go), or None."""

    async def call(
        self,
        method: Call[RequestT, ReplyT],
        request: RequestT,
        *,
        timeout_s: float | None = None,
        meta: Meta | None = None,
    ) -> ReplyT:
        """Ask and wait for the reply; raises a SwarmError. Cancelling the task cancels the call at the peer."""

    def open(
        self, method: Feed[RequestT, ItemT], request: RequestT, *, meta: Meta | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[ItemT]]:
        """Open a stream: ``async with connection.open(FEED, request) as items: async for item in items``."""

    def cast(self, method: Cast[RequestT], message: RequestT) -> bool:
        """Send a one-way message; False when it was dropped at the bound."""

    async def call_raw(self, name: str, body: bytes, *, timeout_s: float | None, meta: Meta | None = None) -> bytes:
        """Ask with an encoded body (proxies); ``timeout_s=None`` sets no deadline."""

    def open_raw(
        self, name: str, body: bytes, *, meta: Meta | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a stream with an encoded body (proxies)."""

    async def wait_lost(self) -> SwarmError:
        """Wait until nothing new can be asked here and return why."""

    async def close(self) -> None:
        """Say goodbye and release everything; idempotent."""


class Listener(Protocol):
    """The answering side."""

    @property
    def endpoint(self) -> str:
        """Where it really listens, with the port filled in."""

    def revoke(self, public_key: bytes) -> None:
        """Refuse this key from now on and cut its live connections at once."""

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Stop accepting, let calls under way finish for ``drain_s``, say goodbye, close; idempotent."""


class Door(Protocol):
    """A port that gives everybody the same public answer; see ``kit.bus.door``."""

    answer: bytes

    @property
    def endpoint(self) -> str:
        """Where it really listens, with the port filled in."""

    async def close(self) -> None:
        """Close it; idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAddress:
    """An ipc socket of this node."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAddress:
    """A manager's socket: the key comes from its certificate, which was checked against the roots."""

    host: str
    port: int
    certificate: bytes = field(repr=False)
    """PEM; the dialler verifies it before it dials. The one that is shown in WELCOME must be good still."""
    incognito: bool = False
    """Show no certificate, only the key: what a joining machine does, and a node whose certificate ran out."""
    grace_s: float = 0.0
    """How long ago the other's certificate may have run out."""


Address = LocalAddress | RemoteAddress


class Bus(Protocol):
    """Makes both sides; one per process (one ZeroMQ context). Everything it made is gone after ``close``."""

    def set_identity(self, identity: Identity) -> None:
        """Be this node from now on: in new dials and to new peers. Live connections go on as they are."""

    async def dial(self, address: Address, *, timeout_s: float = 5.0) -> Connection:
        """One attempt; raises Unavailable (nobody there), Unauthenticated, PermissionDenied or DeadlineExceeded."""

    async def listen_local(self, path: str, handlers: Handlers, *, trusted: bool = True) -> Listener:
        """Listen on an ipc socket (0600); refuses a path on which somebody already listens."""

    async def listen_remote(self, host: str, port: int, handlers: Handlers, *, grace_s: float = 0.0) -> Listener:
        """Listen on TCP under CURVE with this process's identity; port 0 picks one.

        ``grace_s`` is how long ago a peer's certificate may have run out, for listeners that know their peers' keys.
        """

    async def open_door(self, host: str, port: int, answer: bytes) -> Door:
        """Answer everybody on a TCP port, before any authentication."""

    async def knock(self, host: str, port: int, *, timeout_s: float = 5.0) -> bytes:
        """Return the answer of a door; raises Unavailable or DeadlineExceeded."""

    async def failed(self) -> BaseException:
        """Wait for a broken invariant (``AssertionError``) in a handler and return it: the process must end."""

    async def close(self) -> None:
        """Close every connection and listener; idempotent."""
