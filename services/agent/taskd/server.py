"""taskd's socket: connections, their requests and their bounded answers. What a request means is the daemon's business."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress

from services.agent.taskd.loop import READ, WRITE, Loop
from services.agent.taskd.records import BadRecord, Json
from services.agent.taskd.wire import INVALID, Unpacker, pack

_BACKLOG = 64
_READ_BYTES = 256 << 10
_UNSENT_BYTES_MAX = 8 << 20
"""A client that leaves more than this unread is cut off; it connects again and asks."""
_FLUSH_S = 2.0


class Connection:
    """One client."""

    def __init__(
        self, loop: Loop, sock: socket.socket, on_request: OnRequest, on_close: Callable[[Connection], None]
    ) -> None:
        self.subscribed = False
        self.open = True
        self._loop = loop
        self._socket = sock
        self._on_request = on_request
        self._on_close = on_close
        self._unpacker = Unpacker()
        self._unsent = bytearray()
        sock.setblocking(False)
        loop.watch(sock.fileno(), READ, self._on_events)

    def answer(self, seq: object, result: Json) -> None:
        """Answer a request."""
        self.send({"seq": seq, "result": result})

    def refuse(self, seq: object, kind: str, message: str) -> None:
        """Answer a request with an error."""
        self.send({"seq": seq, "error": {"kind": kind, "message": message}})

    def send(self, message: Json) -> None:
        """Send, now or when the client reads; nothing happens on a closed connection."""
        if not self.open:
            return
        self._unsent += pack(message)
        self._write()
        if len(self._unsent) > _UNSENT_BYTES_MAX:
            self.close()

    def flush(self) -> None:
        """Wait a little for the client to take what is unsent; before the process ends or becomes another."""
        if self.open and self._unsent:
            with suppress(OSError):
                self._socket.settimeout(_FLUSH_S)
                self._socket.sendall(self._unsent)

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self.open:
            self.open = False
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._on_close(self)

    def _on_events(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if self.open and events & ~WRITE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            requests = self._unpacker.feed(data)
        except BadRecord as error:
            self.refuse(None, INVALID, str(error))
            self.close()
            return
        for request in requests:
            self._on_request(self, request)

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        self._loop.change(self._socket.fileno(), READ | WRITE if self._unsent else READ)


OnRequest = Callable[[Connection, Json], None]


class Server:
    """Listens, and knows who is connected."""

    def __init__(
        self, loop: Loop, listener: socket.socket, on_request: OnRequest, on_leave: Callable[[], None]
    ) -> None:
        self.connections: list[Connection] = []
        self.listener = listener
        self._loop = loop
        self._on_request = on_request
        self._on_leave = on_leave
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, self._on_connection)

    @classmethod
    def bind(cls, path: str) -> socket.socket:
        """Return a listening socket that only our user can reach, in place of what is there. The caller holds the lock."""
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(old)
        listener.listen(_BACKLOG)
        return listener

    def broadcast(self, message: Json) -> None:
        """Send to all that have subscribed."""
        for connection in list(self.connections):
            if connection.subscribed:
                connection.send(message)

    def flush(self) -> None:
        """Get out what can be got out."""
        for connection in list(self.connections):
            connection.flush()

    def _on_connection(self, _: int) -> None:
        try:
            sock, _address = self.listener.accept()
        except OSError:
            # Gone again, or out of descriptors: the client notices and tries again.
            return
        self.connections.append(Connection(self._loop, sock, self._on_request, self._closed))

    def _closed(self, connection: Connection) -> None:
        self.connections.remove(connection)
        self._on_leave()
