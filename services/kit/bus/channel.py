"""What both ends of a connection have in common, whatever carries the frames: sending with a bounded outbox, heartbeats, the end.

A transport makes an end (``kit.bus.dialled`` or ``kit.bus.answered``) once HELLO and WELCOME are through, gives it a ``Link`` and calls
``feed`` for each frame that arrives and ``lose`` when the wire is gone. What must stay true: after ``lose`` nothing is sent and nothing is
under way, and ``lose`` has happened at most once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from services.kit.bus.api import Caller, Limits
from services.kit.errors import InvalidArgument, ResourceExhausted, SwarmError, Unavailable, from_wire
from services.kit.wire import frames
from services.kit.wire.codec import decode_frame, encode_frame

SILENT_INTERVALS_MAX = 3
FLUSH_AGAIN_S = 0.01
"""ZeroMQ does not say when a full pipe has room again; looked at this often while something waits."""


class Link(Protocol):
    """The wire under one end of a connection."""

    def send(self, data: bytes) -> bool:
        """Hand over one frame; False when the pipe is full."""

    def close(self) -> None:
        """Cut the wire, after what was handed over had a chance to leave; no ``lose`` follows."""


class Channel:
    """One end of a connection."""

    def __init__(self, link: Link, *, peer: Caller, limits: Limits, heartbeat_s: float, pings: bool) -> None:
        self.peer = peer
        self.limits = limits
        self.on_lost: Callable[[SwarmError], None] = _ignore
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._gone: SwarmError | None = None
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._silent_intervals = 0
        self._pings = pings
        self._heartbeat_s = heartbeat_s
        self._beat_timer = self._loop.call_later(heartbeat_s, self._beat)

    @property
    def gone(self) -> SwarmError | None:
        """Why the wire is gone, or None."""
        return self._gone

    def feed(self, data: bytes) -> None:
        """Act on a frame from the other end."""
        if self._gone is not None:
            return
        self._silent_intervals = 0
        try:
            if len(data) > self.limits.frame_bytes_max:
                raise InvalidArgument(f"a frame of {len(data)} bytes")
            frame = decode_frame(data)
            if isinstance(frame, frames.Ping):
                self._send(frames.Pong())
            elif isinstance(frame, frames.Goaway):
                self._on_goaway(frame)
            elif isinstance(frame, frames.Unknown):
                self._on_unknown(frame)
            elif not isinstance(frame, frames.Pong):
                self._on_frame(frame)
        except InvalidArgument as error:
            self.kill(error)

    def kill(self, error: SwarmError) -> None:
        """Tell the other end why, cut the wire and lose the connection; does nothing when it is lost already."""
        if self._gone is None:
            self._send(frames.Goaway(error.code, error.message[: frames.TEXT_CHARS_MAX]))
            self._cut(error)

    def lose(self, error: SwarmError) -> None:
        """The wire is gone: end everything that was under way."""
        if self._gone is not None:
            return
        self._gone = error
        self._beat_timer.cancel()
        self._outbox.clear()
        self._abandon(error)
        self.on_lost(error)

    def _cut(self, error: SwarmError) -> None:
        if self._gone is None:
            self._link.close()
            self.lose(error)

    def _send(self, frame: frames.Frame) -> None:
        """Send a frame now, or as soon as the pipe has room; at the outbox's bound the connection is killed."""
        if self._gone is not None:
            return
        data = encode_frame(frame)
        if not self._outbox and self._link.send(data):
            return
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        if self._outbox_bytes > self.limits.outbox_bytes_max:
            self._cut(ResourceExhausted(f"the peer does not read: {self._outbox_bytes} bytes wait for it"))
        elif len(self._outbox) == 1:
            self._loop.call_later(FLUSH_AGAIN_S, self._flush)

    def _flush(self) -> None:
        while self._outbox:
            if not self._link.send(self._outbox[0]):
                self._loop.call_later(FLUSH_AGAIN_S, self._flush)
                return
            self._outbox_bytes -= len(self._outbox.popleft())

    def _beat(self) -> None:
        if self._silent_intervals >= SILENT_INTERVALS_MAX:
            self.kill(Unavailable(f"no sign of life for {self._heartbeat_s * SILENT_INTERVALS_MAX:g} s"))
            return
        self._silent_intervals += 1
        self._beat_timer = self._loop.call_later(self._heartbeat_s, self._beat)
        if self._pings:
            self._send(frames.Ping())

    def _on_goaway(self, frame: frames.Goaway) -> None:
        if frame.code:
            self._cut(from_wire(frame.code, frame.reason))
        else:
            self._drain(Unavailable(frame.reason or "the peer goes away"))

    def _on_unknown(self, frame: frames.Unknown) -> None:
        """Answer what a newer peer asks; what it merely tells is ignored."""

    def _on_frame(self, frame: frames.Frame) -> None:
        """Act on a frame of a call; raises InvalidArgument when it has no place on this end."""
        raise InvalidArgument(f"a {type(frame).__name__} frame is out of place")

    def _drain(self, error: SwarmError) -> None:
        """The other end wants nothing new to be started."""

    def _abandon(self, error: SwarmError) -> None:
        """End everything that is under way."""


def _ignore(error: SwarmError) -> None:
    """Nobody asked to be told."""
