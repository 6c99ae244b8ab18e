"""The listener's end of a connection: runs the handlers of a table, whatever carries the frames. Made by the transports.

What must stay true: no more handlers run for a peer than its bound, a handler that was cancelled counts until it has really ended, and
exactly one final frame is sent for each request that was not cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import msgspec

from services.kit.bus.api import Caller, Context, Limits, Meta
from services.kit.bus.channel import Channel, Link
from services.kit.bus.credit import Window, cost
from services.kit.bus.rpc import CallEntry, CastEntry, Entry, FeedEntry, Table
from services.kit.errors import (
    Cancelled,
    DeadlineExceeded,
    Details,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    SwarmError,
    Unimplemented,
)
from services.kit.runtime.log import Log
from services.kit.runtime.metrics import CALLS
from services.kit.wire import frames
from services.kit.wire.codec import decode, encode

NO_META = Meta()
RETRY_MS = 200
"""When a peer that has too much under way may ask again."""
DETAILS_BYTES_MAX = 64 << 10
"""The list of problems of an error is left out when it is longer; the message still tells of them."""
ITEMS_BETWEEN_PAUSES = 32
"""A stream that always has something to send lets others run after so many items."""

_log = Log("bus")


class _Work:
    """One request under way."""

    __slots__ = ("begun", "expired", "id", "is_call", "silent", "task", "timer", "window")

    def __init__(self, call: int, window: int) -> None:
        self.id = call
        self.is_call = not window
        self.window = Window(window)
        self.silent = False
        """The caller has its answer, or does not want one."""
        self.expired = False
        self.begun = False
        """The task has had its first step; one that is cancelled earlier never runs any of its code."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Answered(Channel):
    """An accepted connection."""

    def __init__(
        self,
        link: Link,
        table: Table,
        *,
        peer: Caller,
        limits: Limits,
        inside: bool,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        super().__init__(link, peer=peer, limits=limits, heartbeat_s=limits.heartbeat_interval_s, pings=False)
        self._table = table
        self._inside = inside
        self._on_broken = on_broken
        self._calls_max = limits.anonymous_calls_max if is_anonymous(peer) else limits.calls_max
        self._works: dict[int, _Work] = {}

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the handlers that still run, cancelled ones included."""
        return [work.task for work in self._works.values() if work.task is not None]

    def call_tasks(self) -> list[asyncio.Task[None]]:
        """Return the handlers of calls (not of streams) that still run."""
        return [work.task for work in self._works.values() if work.task is not None and work.is_call]

    def start_drain(self, reason: str) -> None:
        """Ask the dialler to start nothing new here."""
        self._send(frames.Goaway(0, reason))

    def _on_frame(self, frame: frames.Frame) -> None:
        match frame:
            case frames.Request():
                self._on_request(frame)
            case frames.CastFrame():
                self._on_cast(frame)
            case frames.Credit():
                work = self._works.get(frame.id)
                if work is not None:
                    work.window.grant(frame.credit)
            case frames.Cancel():
                work = self._works.get(frame.id)
                if work is not None:
                    self._cancel(work)
            case _:
                super()._on_frame(frame)

    def _on_unknown(self, frame: frames.Unknown) -> None:
        if frame.id and frame.kind >= frames.FIRST_CALL_KIND:
            self._send_error(frame.id, Unimplemented(f"frames of kind {frame.kind} are unknown here"))

    def _drain(self, error: SwarmError) -> None:
        """The dialler is done with this connection."""
        self._cut(error)

    def _abandon(self, error: SwarmError) -> None:
        for work in list(self._works.values()):
            self._cancel(work)

    def _on_request(self, request: frames.Request) -> None:
        if request.id in self._works:
            raise InvalidArgument("the id of a request is in use")
        try:
            if len(self._works) >= self._calls_max:
                raise ResourceExhausted(f"{self._calls_max} calls are under way already", Details(retry_ms=RETRY_MS))
            remaining_s = request.timeout_ms / 1000 if request.timeout_ms else None
            entry, context = self._admit(request.method, request.meta, remaining_s)
            self._start(request, entry, context)
        except SwarmError as error:
            self._send_error(request.id, error)

    def _admit(self, method: str, meta: bytes, remaining_s: float | None) -> tuple[Entry, Context]:
        entry = self._table.find(method)
        if entry is None:
            raise Unimplemented(f"{method} is not answered here")
        unpacked = decode(Meta, meta) if meta else NO_META
        return entry, self._table.admit(entry, self.peer, unpacked, inside=self._inside, remaining_s=remaining_s)

    def _start(self, request: frames.Request, entry: Entry, context: Context) -> None:
        is_feed = request.window > 0
        if isinstance(entry, CastEntry) or isinstance(entry, FeedEntry) is not is_feed:
            raise InvalidArgument(f"{entry.name} was asked in the wrong way: is it a call, a stream or a cast?")
        work = self._works[request.id] = _Work(request.id, request.window)
        work.task = self._loop.create_task(self._serve(work, entry, context, request.body), name=entry.name)
        if request.timeout_ms:
            work.timer = self._loop.call_later(request.timeout_ms / 1000, self._expire, work, entry.name)

    async def _serve(self, work: _Work, entry: CallEntry | FeedEntry, context: Context, body: bytes) -> None:
        """Run a handler to its end and send the one final frame."""
        work.begun = True
        begun_at = self._loop.time()
        code = "OK"
        try:
            if isinstance(entry, CallEntry):
                reply = entry.pack(await entry.run(context, body))
                self._check_size(entry.name, reply)
                self._finish(work, frames.Reply(work.id, reply))
            else:
                await self._send_items(work, entry, entry.open(context, body))
                self._finish(work, frames.End(work.id))
        except asyncio.CancelledError:
            code = "Cancelled"
            reason = (
                DeadlineExceeded(f"{entry.name} took too long") if work.expired else Cancelled("the handler stopped")
            )
            self._finish_badly(work, reason)
            raise
        except SwarmError as error:
            code = type(error).__name__
            self._finish_badly(work, error)
        except Exception as error:  # noqa: BLE001 - the door of every handler: a bug is logged here, its class name answered
            code = "Internal"
            self._on_bug(entry.name, error)
            self._finish_badly(work, Internal(type(error).__name__))
        finally:
            if isinstance(entry, CallEntry):
                CALLS.observe(self._loop.time() - begun_at, entry.name, code)
            self._forget(work)

    def _cancel(self, work: _Work) -> None:
        """Stop the handler; nothing is sent for this request any more."""
        work.silent = True
        self._stop(work)

    def _expire(self, work: _Work, name: str) -> None:
        """Stop the handler because the caller's time is up."""
        work.expired = True
        if not work.begun:
            self._finish_badly(work, _too_late(name))
        self._stop(work)

    def _stop(self, work: _Work) -> None:
        if work.task is not None:
            work.task.cancel()
        if not work.begun:
            self._forget(work)

    def _forget(self, work: _Work) -> None:
        if work.timer is not None:
            work.timer.cancel()
        del self._works[work.id]

    async def _send_items(self, work: _Work, entry: FeedEntry, items: AsyncIterator[Any]) -> None:
        sent = 0
        try:
            async for item in items:
                body = entry.pack(item)
                self._check_size(entry.name, body)
                if work.window.left <= 0:
                    await work.window.room()
                elif sent % ITEMS_BETWEEN_PAUSES == ITEMS_BETWEEN_PAUSES - 1:
                    await asyncio.sleep(0)
                sent += 1
                work.window.left -= cost(body)
                if work.silent:
                    return
                self._send(frames.Item(work.id, body))
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    def _on_cast(self, frame: frames.CastFrame) -> None:
        try:
            entry, context = self._admit(frame.method, frame.meta, None)
            if not isinstance(entry, CastEntry):
                raise InvalidArgument(f"{entry.name} is not a cast")
            entry.take(context, frame.body)
        except SwarmError as error:
            _log.debug("cast refused", method=frame.method, peer=self.peer.node_id, reason=str(error))
        except Exception as error:  # noqa: BLE001 - as for calls, but nobody waits for an answer
            self._on_bug(frame.method, error)

    def _finish(self, work: _Work, frame: frames.Frame) -> None:
        if not work.silent:
            work.silent = True
            self._send(frame)

    def _finish_badly(self, work: _Work, error: SwarmError) -> None:
        if not work.silent:
            work.silent = True
            self._send_error(work.id, error)

    def _send_error(self, call: int, error: SwarmError) -> None:
        details = error.details
        if len(encode(details)) > DETAILS_BYTES_MAX:
            details = msgspec.structs.replace(details, problems=())
        self._send(frames.ErrorFrame(call, error.code, error.message[: frames.TEXT_CHARS_MAX], details))

    def _on_bug(self, method: str, error: Exception) -> None:
        """A broken invariant is the end of the process, which its owner brings about; another bug is the end of one request."""
        _log.crash("handler failed", error, method=method)
        if isinstance(error, AssertionError):
            self._on_broken(error)

    def _check_size(self, name: str, body: bytes) -> None:
        if len(body) + frames.HEADER_BYTES_MAX > self.limits.frame_bytes_max:
            raise ResourceExhausted(f"{name}: an answer of {len(body)} bytes does not fit a frame")


def is_anonymous(peer: Caller) -> bool:
    """Tell whether a peer of the network has shown no certificate."""
    return bool(peer.public_key) and not peer.role


async def drain(ends: Collection[Answered], drain_s: float) -> None:
    """Ask diallers to start nothing new and wait, for a while, until no call is under way."""
    for end in list(ends):
        end.start_drain("the listener is closing")
    if drain_s > 0:
        calls = [task for end in ends for task in end.call_tasks()]
        if calls:
            await asyncio.wait(calls, timeout=drain_s)


def _too_late(name: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"{name} took too long", Details(maybe_executed=True))
