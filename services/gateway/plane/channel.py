"""plane.sock, either end: lines with, now and then, a socket beside them. Neither reading nor writing ever waits.

Owned by the plane's worker (in its epoll loop) and by the gateway's keeper of the plane (in asyncio). What must stay true: every
descriptor that arrives is handed out with its line or closed.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque

from services.gateway.plane.messages import LINE_BYTES_MAX, WITH_SOCKET, BrokenLine, Message, decode, encode

OUTBOX_BYTES_MAX = 64 << 20
_READ_BYTES = 1 << 16
_SOCKETS_PER_READ = 32
_DESCRIPTOR_BYTES = array.array("i").itemsize


class ChannelLost(Exception):
    """The other side is gone, or does not keep to the protocol."""


class Channel:
    """One connected plane.sock."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._outbox: deque[tuple[memoryview, socket.socket | None]] = deque()
        self._outbox_bytes = 0
        self._inbox = bytearray()
        self._descriptors: deque[int] = deque()

    @property
    def waiting(self) -> bool:
        """True while lines wait for the other side to read."""
        return bool(self._outbox)

    def send(self, message: Message, listener: socket.socket | None = None) -> None:
        """Queue a line (and a copy of the socket) and write what can be written; raises ChannelLost."""
        assert isinstance(message, WITH_SOCKET) == (listener is not None), "exactly these lines carry a socket"
        line = memoryview(encode(message))
        if self._outbox_bytes + len(line) > OUTBOX_BYTES_MAX:
            raise ChannelLost("the other side does not read")
        self._outbox_bytes += len(line)
        self._outbox.append((line, listener.dup() if listener is not None else None))
        self.flush()

    def flush(self) -> None:
        """Write what can be written; raises ChannelLost."""
        while self._outbox:
            line, listener = self._outbox[0]
            ancillary = []
            if listener is not None:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))]
            try:
                sent = self.sock.sendmsg([line], ancillary)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelLost(str(error)) from error
            if listener is not None:
                listener.close()
            self._outbox_bytes -= sent
            if sent == len(line):
                self._outbox.popleft()
            else:
                self._outbox[0] = (line[sent:], None)

    def receive(self) -> list[tuple[Message, socket.socket | None]]:
        """Return the complete lines that are there; raises ChannelLost at the end of the connection."""
        data = self._read()
        self._inbox += data
        if len(self._inbox) > LINE_BYTES_MAX:
            raise ChannelLost("a line is too long")
        if b"\n" not in data:
            return []
        *lines, self._inbox = self._inbox.split(b"\n")
        try:
            return [self._with_socket(decode(bytes(line))) for line in lines]
        except BrokenLine as error:
            raise ChannelLost(f"broken line: {error}") from error

    def close(self) -> None:
        """Close the connection and every descriptor that nobody took; idempotent."""
        self.sock.close()
        for _, listener in self._outbox:
            if listener is not None:
                listener.close()
        self._outbox.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _read(self) -> bytes:
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                _READ_BYTES, socket.CMSG_SPACE(_SOCKETS_PER_READ * _DESCRIPTOR_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ChannelLost(str(error)) from error
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % _DESCRIPTOR_BYTES])
                self._descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            raise ChannelLost("sockets were lost on the way: too many open files")
        if not data:
            raise ChannelLost("closed by the other side")
        return data

    def _with_socket(self, message: Message) -> tuple[Message, socket.socket | None]:
        if not isinstance(message, WITH_SOCKET):
            return message, None
        if not self._descriptors:
            raise ChannelLost(f"{message.name}: the socket is missing")
        return message, socket.socket(fileno=self._descriptors.popleft())
