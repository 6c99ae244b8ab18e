"""TLS with a client of a published port, ended here: a stream for the pump and for HTTP, and the certificates it is shown.

Made by the TLS door. What must stay true: the certificate's key is never written to a disk; a call that cannot go on raises BlockingIOError
and is made again with the same bytes.
"""

from __future__ import annotations

import os
import socket
import ssl


def context_from(pem: str, *, for_http: bool) -> ssl.SSLContext:
    """Return what shows this chain to clients; raises ssl.SSLError for what is no chain with its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if for_http:
        context.set_alpn_protocols(["http/1.1"])
    memory = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=_no_password)
    finally:
        os.close(memory)
    return context


def _no_password() -> str:
    """Or it would be asked for on a terminal."""
    return ""


class TlsStream:
    """A connection with a client that behaves like a plain socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Take the socket over; raises OSError when it is gone already."""
        self._sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._said_goodbye = False
        self._is_over = False
        """Both sides said goodbye: what comes now is not TLS."""

    def handshake(self) -> None:
        """Go on with the handshake; raises BlockingIOError until it is done, OSError when it fails."""
        try:
            self._sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def recv_into(self, buffer: bytearray) -> int:
        """Read what there is, 0 at the end."""
        if self._is_over:
            return 0
        try:
            return self._sock.recv_into(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def send(self, data: memoryview | bytes) -> int:
        """Send some of the data and return how much."""
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def shutdown(self, how: int) -> None:
        """Say that no more comes from this side; what the client says after that may be lost, as TLS has it."""
        assert how == socket.SHUT_WR, "halves end one by one"
        if self._said_goodbye:
            return
        self._said_goodbye = True
        try:
            self._sock.unwrap()
        except ssl.SSLError:
            return  # it is said; the other side's goodbye is not waited for
        self._is_over = True

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Set an option; the pump asks for nothing but a reset on close."""
        self._said_goodbye = True
        self._sock.setsockopt(level, option, value)

    def getsockname(self) -> tuple[str, int]:
        """Return this end's address."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it, with a goodbye if that can be said without waiting."""
        try:
            self.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            self._said_goodbye = True
        self._sock.close()
