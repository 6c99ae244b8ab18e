"""A TLS connection between two gateways that behaves like a plain socket for the pump: either half can end alone.

Each piece of data is a frame: two bytes of length, then so many bytes; a frame of length 0 ends a half. What must stay true: an
end of the connection without that frame is a reset, so that nobody takes half an answer for a whole one; a call that cannot
go on raises BlockingIOError and is made again with the same bytes.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any

FRAME_BYTES_MAX = 16_000
"""A frame and its length fit into one TLS record."""
_LENGTH = struct.Struct("!H")
_END = _LENGTH.pack(0)


class FramedTls:
    """See the module."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._head = b""
        """Of the frame that is being sent: what of its length is not sent yet."""
        self._left_out = 0
        """Bytes of it that are not sent yet."""
        self._head_in = b""
        self._left_in = 0
        self._ended_in = False
        self._ended_out = False
        self._resets = False

    @property
    def peer_names(self) -> dict[str, str]:
        """Names in the subject of the other side's certificate."""
        subject: Any = (self._sock.getpeercert() or {}).get("subject", ())
        return {str(key): str(value) for part in subject for key, value in part}

    def session_under(self, context: ssl.SSLContext | None) -> ssl.SSLSession | None:
        """Return what makes the next handshake short, None when there is nothing, or it belongs to other certificates."""
        session = self._sock.session
        return session if session is not None and session.has_ticket and self._sock.context is context else None

    def handshake(self) -> None:
        """Go on with the handshake; raises BlockingIOError until it is done."""
        try:
            self._sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def send(self, data: memoryview | bytes) -> int:
        """Send some of the data and return how much."""
        if not self._left_out:
            self._left_out = min(len(data), FRAME_BYTES_MAX)
            self._head = _LENGTH.pack(self._left_out)
        sent = self._write(self._head + bytes(data[: self._left_out]))
        taken = max(0, sent - len(self._head))
        self._head = self._head[sent:]
        self._left_out -= taken
        return taken

    def recv_into(self, buffer: bytearray) -> int:
        """Read what there is, 0 at the end of the other side's half."""
        while not self._left_in:
            if self._ended_in:
                return 0
            head = self._read_some(2 - len(self._head_in))
            self._head_in += head
            if len(self._head_in) == 2:
                (self._left_in,) = _LENGTH.unpack(self._head_in)
                self._head_in = b""
                self._ended_in = not self._left_in
        try:
            count = self._sock.recv_into(buffer, min(self._left_in, len(buffer)))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        if not count:
            raise ConnectionResetError("the other gateway hung up in the middle")
        self._left_in -= count
        return count

    def shutdown(self, how: int) -> None:
        """End this side's half; the other one goes on."""
        assert how == socket.SHUT_WR, "halves end one by one"
        if not self._ended_out:
            self._write(_END)
            self._ended_out = True

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Set an option; the pump asks for nothing but a reset on close."""
        self._resets = True
        self._sock.setsockopt(level, option, value)

    def getsockname(self) -> tuple[str, int]:
        """Return this end's address."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it; unless it was to be reset, the other side hears of an ordinary end, if it can be said without waiting."""
        if not self._resets and not self._ended_out and not self._left_out:
            try:
                self.shutdown(socket.SHUT_WR)
            except OSError:
                self._resets = True
        self._sock.close()

    def _write(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def _read_some(self, count: int) -> bytes:
        try:
            data = self._sock.recv(count)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        if not data:
            raise ConnectionResetError("the other gateway hung up in the middle")
        return data
