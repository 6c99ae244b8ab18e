"""The pump: moves the bytes of one direction of one connection, by copying small exchanges and splicing bulk.

Both sockets are watched edge-triggered, so a pump goes on until a read or a write would block, or until its turns are used up and
it asks for another go. What must stay true: bytes are never reordered, doubled or dropped; at most one chunk (or one pipe) of a
direction waits for a slow reader, and nothing more is read for it meanwhile; the end of one direction leaves the other open; a reset
is passed on as a reset, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Protocol

from services.gateway.plane.loop import GONE, READ, WRITE, Loop

CHUNK_BYTES = 1 << 16
PIPE_BYTES = 1 << 20
PIPES_MAX = 256
"""Bulk beyond this many directions at once is copied: a pipe can hold a megabyte of kernel memory."""
TURNS = 16
FULL_READS_BEFORE_SPLICE = 4
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
READ_OR_GONE = READ | GONE
READ_AND_WRITE = READ | WRITE
SMALL_BYTES = 1 << 14
read, write = os.read, os.write


class Pipes:
    """Pipes for splicing, used again and again."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []
        self._made = 0

    def take(self) -> tuple[int, int] | None:
        """Return an empty pipe, or None at the bound or when the process has no descriptors left."""
        if self._free:
            return self._free.pop()
        if self._made >= PIPES_MAX:
            return None
        try:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        self._made += 1
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except PermissionError:
            return reader, writer  # over the user's share of pipe memory: a small pipe works as well
        return reader, writer

    def give_back(self, pipe: tuple[int, int], *, is_empty: bool) -> None:
        """Keep an empty pipe for the next; close one with bytes in it."""
        if is_empty:
            self._free.append(pipe)
            return
        self._made -= 1
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        """Close the free pipes."""
        while self._free:
            self.give_back(self._free.pop(), is_empty=False)


class Shared:
    """What all connections of a worker share."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.pipes = Pipes()
        self.buffer = bytearray(CHUNK_BYTES)
        self.view = memoryview(self.buffer)


class Stream(Protocol):
    """A socket as the pump uses it: a plain one, or one that behaves like it."""

    def recv_into(self, buffer: bytearray) -> int:
        """Read what there is, 0 at the end."""

    def send(self, data: memoryview) -> int:
        """Write some of the data and return how much."""

    def shutdown(self, how: int) -> None:
        """End this side's half."""

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Set an option."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close it."""


class Ending(Protocol):
    """Who wants to know that both directions are over."""

    def over(self) -> None:
        """Take note: both sockets are closed."""


class Side:
    """One end of an established connection. What is read here is written to ``peer``."""

    __slots__ = (
        "_fd",
        "_full_reads",
        "_is_raw",
        "_owner",
        "_pending",
        "_pipe",
        "_piped",
        "_shared",
        "_shut",
        "_sock",
        "calm",
        "dead",
        "ended",
        "moved",
        "peer",
        "peer_gone",
    )

    peer: Side

    def __init__(self, sock: Stream, shared: Shared, owner: Ending, *, is_raw: bool = True) -> None:
        """``is_raw``: both ends are plain sockets, so that bytes may be moved by descriptor."""
        self._sock = sock
        self._is_raw = is_raw
        self._fd = sock.fileno()
        self._shared = shared
        self._owner = owner
        self._pending: memoryview | None = None
        self._pipe: tuple[int, int] | None = None
        self._piped = 0
        self._full_reads = 0
        self._shut = False
        """The peer was told that no more comes from here."""
        self.ended = False
        """No more comes from this side."""
        self.peer_gone = False
        """The kernel said that this side hung up: read on until the end, however short the reads are."""
        self.dead = False
        self.calm = is_raw
        """Nothing waits in this direction, no bulk is under way, and both ends are plain sockets."""
        self.moved = 0
        """Bytes that went from here to the peer."""

    def say_first(self, words: bytes) -> None:
        """Have the peer hear these words of the gateway before anything that is read here; they are not counted."""
        self._pending = memoryview(words)
        self.calm = False
        self.moved -= len(words)

    def on_event(self, events: int) -> None:
        """Act on what epoll says of this socket.

        The first part is all there is to most requests and answers: one small read and one whole write, in as few steps as there can be.
        """
        if events != READ_AND_WRITE or not self.calm or not self.peer.calm:
            self._on_other_event(events)
            return
        try:
            data = read(self._fd, SMALL_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._broken()
            return
        try:
            sent = write(self.peer._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._broken()
            return
        self.moved += sent
        if 0 < sent == len(data) < SMALL_BYTES:
            return
        self.ended = not data
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
        self.pump()

    def _on_other_event(self, events: int) -> None:
        if self.dead:
            return
        if events & GONE:
            self.peer_gone = True
        if events & READ_OR_GONE:
            self.pump()
        if events & WRITE and not self.dead:
            peer = self.peer
            if peer._pending is not None or peer._piped or (peer.ended and not peer._shut):
                peer.pump()

    def pump(self) -> None:
        """Move bytes from here to the peer until one of the two would block."""
        if self.dead:
            return
        self.calm = False
        try:
            for _ in range(TURNS):
                if self._pending is not None or self._piped:
                    self._write_waiting()
                elif self.ended:
                    self._pass_on_end()
                    return
                elif self._full_reads >= FULL_READS_BEFORE_SPLICE:
                    self._splice()
                elif not self._copy():
                    self.calm = self._is_raw
                    return
        except BlockingIOError:
            if self._pipe is not None and not self._piped:
                self._return_pipe()
            self.calm = self._is_raw and self._pending is None and not self._piped and not self._full_reads
            return
        except OSError:
            self._broken()
            return
        self._shared.loop.again(self.pump)

    def abort(self) -> None:
        """End both directions at once, with a reset where the socket still lives."""
        for side in (self, self.peer):
            if not side.dead:
                side._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.finish()

    def finish(self) -> None:
        """End both directions; both ends see an ordinary end of the stream."""
        peer = self.peer
        for side in (self, peer):
            if not side.dead:
                side._release()
        self._owner.over()
        del self.peer, peer.peer  # or the collector would have to find the circle

    def _copy(self) -> bool:
        """Read once and write what was read; False when the socket is empty, which the next edge will change."""
        shared = self._shared
        count = self._sock.recv_into(shared.buffer)
        if count == 0:
            self.ended = True
            return True
        view = shared.view[:count]
        try:
            sent = self.peer._sock.send(view)
        except BlockingIOError:
            sent = 0
        self.moved += sent
        if sent < count:
            self._pending = memoryview(bytes(view[sent:]))
        if count == CHUNK_BYTES:
            self._full_reads += self._is_raw
            return True
        self._full_reads = 0
        return sent < count or self.peer_gone or not self._is_raw

    def _splice(self) -> None:
        """Move up to a pipe full of bytes from the socket into the pipe, inside the kernel."""
        if self._pipe is None:
            self._pipe = self._shared.pipes.take()
            if self._pipe is None:
                self._full_reads = 0
                return
        count = os.splice(self._sock.fileno(), self._pipe[1], PIPE_BYTES, flags=_SPLICE_FLAGS)
        if count == 0:
            self.ended = True
        self._piped = count
        if count >= CHUNK_BYTES:
            self._full_reads = 2 * FULL_READS_BEFORE_SPLICE
        else:
            self._full_reads -= 1

    def _write_waiting(self) -> None:
        """Write what waits for the peer, once."""
        if self._pending is not None:
            sent = self.peer._sock.send(self._pending)
            self.moved += sent
            self._pending = self._pending[sent:] if sent < len(self._pending) else None
            return
        assert self._pipe is not None, "piped bytes are in a pipe"
        sent = os.splice(self._pipe[0], self.peer._sock.fileno(), self._piped, flags=_SPLICE_FLAGS)
        self.moved += sent
        self._piped -= sent
        if not self._piped and self._full_reads < FULL_READS_BEFORE_SPLICE:
            self._return_pipe()

    def _pass_on_end(self) -> None:
        if self._shut:
            return
        if self._pipe is not None:
            self._return_pipe()
        if not self.peer._shut or not self._is_raw:
            self.peer._sock.shutdown(socket.SHUT_WR)
        self._shut = True
        if self.peer._shut:
            self.finish()

    def _broken(self) -> None:
        """One of the two sockets failed. A peer that had said all it had to say is allowed to hang up on the rest."""
        if self.peer._shut:
            self.finish()
        else:
            self.abort()

    def _return_pipe(self) -> None:
        assert self._pipe is not None, "there is a pipe to return"
        self._shared.pipes.give_back(self._pipe, is_empty=not self._piped)
        self._pipe = None

    def _release(self) -> None:
        self.dead = True
        self.calm = False
        if self._pipe is not None:
            self._return_pipe()
        self._pending = None
        self._shared.loop.close_later(self._sock)
