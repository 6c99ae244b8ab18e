"""The method table of a listener: which handler answers which method, and who may call it. Filled by the process that listens,
read by ``kit.bus.answered``.

The right to call is decided here and nowhere else, by these rules:

- A listener inside the node (ipc, ``trusted=True`` on both the table and the listener) answers everybody who could open its socket, and
  takes the caller from the stamp in the meta; without a stamp the caller is the peer.
- Any other listener denies by default: the caller's role must be among the method's roles, or the method be open to ``ANYONE``. The
  caller is the peer; only a manager's gateway that forwards may name another one, whose role then counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from services.kit.bus.api import (
    Caller,
    CallHandler,
    CastHandler,
    Context,
    FeedHandler,
    Meta,
    RawCallHandler,
    RawFeedHandler,
)
from services.kit.errors import PermissionDenied, Unauthenticated
from services.kit.messages.method import ANYONE, MANAGER, Call, Cast, Feed
from services.kit.model.value import Value
from services.kit.wire.codec import decode, encode

RequestT = TypeVar("RequestT", bound=Value)
ReplyT = TypeVar("ReplyT", bound=Value)
ItemT = TypeVar("ItemT", bound=Value)
Pack = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEntry:
    """How a call is answered: ``pack(await run(context, body))``."""

    name: str
    roles: frozenset[str]
    run: Callable[[Context, bytes], Awaitable[Any]]
    pack: Pack


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEntry:
    """How a stream is answered: ``pack`` of each item of ``open(context, body)``."""

    name: str
    roles: frozenset[str]
    open: Callable[[Context, bytes], AsyncIterator[Any]]
    pack: Pack


@dataclass(frozen=True, slots=True, kw_only=True)
class CastEntry:
    """How a cast is taken."""

    name: str
    roles: frozenset[str]
    take: Callable[[Context, bytes], None]


Entry = CallEntry | FeedEntry | CastEntry


class Table:
    """The methods of one listener (see ``api.Handlers``)."""

    def __init__(self, *, trusted: bool = False) -> None:
        self._trusted = trusted
        self._entries: dict[str, Entry] = {}

    def on_call(self, method: Call[RequestT, ReplyT], handler: CallHandler[RequestT, ReplyT]) -> None:
        """Answer a call."""

        def run(context: Context, body: bytes) -> Awaitable[ReplyT]:
            return handler(context, decode(method.request, body))

        self._add(CallEntry(name=method.name, roles=method.roles, run=run, pack=encode))

    def on_feed(self, method: Feed[RequestT, ItemT], handler: FeedHandler[RequestT, ItemT]) -> None:
        """Answer a stream; the async iterator is closed when the caller leaves."""

        def open_feed(context: Context, body: bytes) -> AsyncIterator[ItemT]:
            return handler(context, decode(method.request, body))

        self._add(FeedEntry(name=method.name, roles=method.roles, open=open_feed, pack=encode))

    def on_cast(self, method: Cast[RequestT], handler: CastHandler[RequestT]) -> None:
        """Take casts; the handler must not wait."""

        def take(context: Context, body: bytes) -> None:
            handler(context, decode(method.message, body))

        self._add(CastEntry(name=method.name, roles=method.roles, take=take))

    def forward_call(self, method: Call[RequestT, ReplyT], handler: RawCallHandler) -> None:
        """Answer a call from undecoded bytes (proxies)."""
        self._add(CallEntry(name=method.name, roles=method.roles, run=handler, pack=bytes))

    def forward_feed(self, method: Feed[RequestT, ItemT], handler: RawFeedHandler) -> None:
        """Answer a stream from undecoded bytes (proxies)."""
        self._add(FeedEntry(name=method.name, roles=method.roles, open=handler, pack=bytes))

    def find(self, name: str) -> Entry | None:
        """Return how a method is answered here."""
        return self._entries.get(name)

    def admit(self, entry: Entry, peer: Caller, meta: Meta, *, inside: bool, remaining_s: float | None) -> Context:
        """Return the context for the handler, or raise PermissionDenied or Unauthenticated.

        ``inside`` says that the listener is an ipc socket of this node which trusts its peers.
        """
        caller = peer
        if inside and self._trusted:
            caller = meta.caller or peer
        else:
            if meta.caller is not None and meta.forwarded and peer.role == MANAGER:
                caller = meta.caller
            _check_role(entry, caller)
        return Context(caller=caller, peer=peer, meta=meta, remaining_s=remaining_s, method=entry.name)

    def _add(self, entry: Entry) -> None:
        assert entry.name not in self._entries, f"{entry.name} has two handlers"
        self._entries[entry.name] = entry


def _check_role(entry: Entry, caller: Caller) -> None:
    if ANYONE in entry.roles or (caller.role and caller.role in entry.roles):
        return
    if not caller.role:
        raise Unauthenticated(f"{entry.name} needs a node certificate")
    raise PermissionDenied(f"{entry.name} is not open to a {caller.role}")
