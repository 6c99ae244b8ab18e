"""The dialler's end of a connection: calls, streams and casts (``api.Connection``), whatever carries the frames. Made by the transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import TypeVar

from services.kit.bus.api import Caller, Limits, Meta
from services.kit.bus.channel import Channel, Link
from services.kit.bus.credit import Inbox
from services.kit.errors import (
    DeadlineExceeded,
    Details,
    ResourceExhausted,
    SwarmError,
    Unavailable,
    from_wire,
)
from services.kit.messages.method import Call, Cast, Feed
from services.kit.model.value import Value
from services.kit.wire import frames
from services.kit.wire.codec import decode, encode, encode_frame

RequestT = TypeVar("RequestT", bound=Value)
ReplyT = TypeVar("ReplyT", bound=Value)
ItemT = TypeVar("ItemT", bound=Value)
DecodedT = TypeVar("DecodedT")

TIMEOUT_MS_MAX = (1 << 31) - 1
_MAYBE_EXECUTED = Details(maybe_executed=True)


class Dialled(Channel):
    """A dialled connection."""

    def __init__(self, link: Link, *, peer: Caller, limits: Limits, heartbeat_s: float) -> None:
        super().__init__(link, peer=peer, limits=limits, heartbeat_s=heartbeat_s, pings=True)
        self._ids = count(1)
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._feeds: dict[int, Inbox[object]] = {}
        self._lost: asyncio.Future[SwarmError] = self._loop.create_future()

    @property
    def lost(self) -> SwarmError | None:
        """Why nothing new can be asked here, or None."""
        return self._lost.result() if self._lost.done() else None

    async def wait_lost(self) -> SwarmError:
        """Wait until nothing new can be asked here and return why."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """Say goodbye and release everything; idempotent."""
        if self._gone is None:
            self._send(frames.Goaway(0, "closed"))
            self._cut(Unavailable("the connection was closed here"))

    async def call(
        self,
        method: Call[RequestT, ReplyT],
        request: RequestT,
        *,
        timeout_s: float | None = None,
        meta: Meta | None = None,
    ) -> ReplyT:
        """Ask and wait for the reply; raises a SwarmError."""
        time_left_s = method.timeout_s if timeout_s is None else timeout_s
        return decode(method.reply, await self.call_raw(method.name, encode(request), timeout_s=time_left_s, meta=meta))

    async def call_raw(self, name: str, body: bytes, *, timeout_s: float | None, meta: Meta | None = None) -> bytes:
        """Ask with an encoded body; without a timeout there is no deadline."""
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineExceeded(f"no time left for {name}")
        answer: asyncio.Future[bytes] = self._loop.create_future()
        call = self._request(name, body, meta, timeout_s=timeout_s, window=0)
        self._calls[call] = answer
        timer = self._loop.call_later(timeout_s, self._expire, call, name) if timeout_s is not None else None
        try:
            return await answer
        finally:
            if timer is not None:
                timer.cancel()
            if self._calls.pop(call, None) is not None:
                self._send(frames.Cancel(call))

    @asynccontextmanager
    async def open(
        self, method: Feed[RequestT, ItemT], request: RequestT, *, meta: Meta | None = None
    ) -> AsyncIterator[AsyncIterator[ItemT]]:
        """Open a stream; leaving the block cancels it at the peer."""

        def decode_item(body: bytes) -> ItemT:
            return decode(method.item, body)

        async with self._open(method.name, encode(request), meta, decode_item) as items:
            yield items

    @asynccontextmanager
    async def open_raw(
        self, name: str, body: bytes, *, meta: Meta | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stream with an encoded body."""
        async with self._open(name, body, meta, bytes) as items:
            yield items

    def cast(self, method: Cast[RequestT], message: RequestT) -> bool:
        """Send a one-way message; False when the connection is gone or its pipe is full."""
        if self._lost.done() or self._outbox:
            return False
        data = encode_frame(frames.CastFrame(method.name, b"", encode(message)))
        _check_size(method.name, len(data), self.limits)
        return self._link.send(data)

    @asynccontextmanager
    async def _open(
        self, name: str, body: bytes, meta: Meta | None, decode_item: Callable[[bytes], DecodedT]
    ) -> AsyncIterator[Inbox[DecodedT]]:
        window = self.limits.window_bytes
        call = self._request(name, body, meta, timeout_s=None, window=window)

        def give_back(credit: int) -> None:
            self._send(frames.Credit(call, credit))

        inbox: Inbox[DecodedT] = Inbox(window, give_back, decode_item)
        self._feeds[call] = inbox  # type: ignore[assignment]  # put and end do not care about the type of an item
        try:
            yield inbox
        finally:
            if self._feeds.pop(call, None) is not None:
                self._send(frames.Cancel(call))

    def _request(self, name: str, body: bytes, meta: Meta | None, *, timeout_s: float | None, window: int) -> int:
        """Send a request and return its id; raises without sending when the connection is lost or the body too large."""
        if self._lost.done():
            raise Unavailable(self._lost.result().message)
        packed_meta = encode(meta) if meta is not None else b""
        _check_size(name, len(body) + len(packed_meta) + frames.HEADER_BYTES_MAX, self.limits)
        timeout_ms = 0 if timeout_s is None else max(1, min(int(timeout_s * 1000), TIMEOUT_MS_MAX))
        call = next(self._ids)
        self._send(frames.Request(call, name, timeout_ms, window, packed_meta, body))
        if self._gone is not None:
            raise Unavailable(self._gone.message, _MAYBE_EXECUTED)
        return call

    def _expire(self, call: int, name: str) -> None:
        answer = self._calls.pop(call, None)
        if answer is not None:
            self._send(frames.Cancel(call))
            if not answer.done():
                answer.set_exception(DeadlineExceeded(f"{name} took too long", _MAYBE_EXECUTED))

    def _on_frame(self, frame: frames.Frame) -> None:
        match frame:
            case frames.Reply():
                answer = self._calls.pop(frame.id, None)
                if answer is not None and not answer.done():
                    answer.set_result(frame.body)
            case frames.Item():
                inbox = self._feeds.get(frame.id)
                if inbox is not None:
                    inbox.put(frame.body)
            case frames.End():
                inbox = self._feeds.pop(frame.id, None)
                if inbox is not None:
                    inbox.end()
            case frames.ErrorFrame():
                self._fail(frame.id, from_wire(frame.code, frame.message, frame.details))
            case _:
                super()._on_frame(frame)

    def _fail(self, call: int, error: SwarmError) -> None:
        answer = self._calls.pop(call, None)
        if answer is not None and not answer.done():
            answer.set_exception(error)
        inbox = self._feeds.pop(call, None)
        if inbox is not None:
            inbox.end(error)

    def _drain(self, error: SwarmError) -> None:
        if not self._lost.done():
            self._lost.set_result(error)

    def _abandon(self, error: SwarmError) -> None:
        self._drain(error)
        for call in [*self._calls, *self._feeds]:
            self._fail(call, Unavailable(error.message, _MAYBE_EXECUTED))


def _check_size(name: str, size: int, limits: Limits) -> None:
    if size > limits.frame_bytes_max:
        raise ResourceExhausted(
            f"{name}: a message of {size} bytes is larger than the {limits.frame_bytes_max} allowed"
        )
