"""The ZAP handler: libzmq asks it about every connection before the handshake ends. One per bus; listeners register their domain.

A CURVE server **without** a handler lets everybody in. What must stay true: the handler is bound before the first listener binds and closed
after the last one, every listener has a domain of its own and enforces it, and an unknown domain is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import zmq

from services.kit.bus.zmq_socket import ZAP_ENFORCE_DOMAIN, Context, Drained, Socket

ENDPOINT = "inproc://zeromq.zap.01"
Judge = Callable[[str, bytes, list[bytes]], str]
"""``judge(address, mechanism, credentials)`` returns the user id of an admitted peer, or an empty string."""

_numbers = count(1)


class ZapHandler:
    """Answers libzmq's questions."""

    def __init__(self, context: Context) -> None:
        self._judges: dict[bytes, Judge] = {}
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._drained = Drained(self._socket, self._answer_one)

    def guard(self, socket: Socket, judge: Judge) -> bytes:
        """Put a listener's socket, before it binds, under a judge; returns the domain."""
        domain = f"swarm-{next(_numbers)}".encode()
        self._judges[domain] = judge
        socket.setsockopt(zmq.ZAP_DOMAIN, domain)
        socket.setsockopt(ZAP_ENFORCE_DOMAIN, 1)
        return domain

    def release(self, domain: bytes) -> None:
        """Forget a closed listener's domain; late questions about it are answered no."""
        self._judges.pop(domain, None)

    def close(self) -> None:
        """Stop answering; idempotent."""
        self._drained.close()

    def _answer_one(self) -> None:
        question = self._socket.recv_multipart(zmq.DONTWAIT)
        request_id, user_id = question[1] if len(question) > 1 else b"", ""
        if len(question) >= 6 and question[0] == b"1.0":
            _, _, domain, address, _, mechanism, *credentials = question
            judge = self._judges.get(domain)
            if judge is not None:
                user_id = judge(address.decode("ascii", "replace"), mechanism, credentials)
        status, reason = (b"200", b"") if user_id else (b"400", b"refused")
        self._socket.send_multipart((b"1.0", request_id, status, reason, user_id.encode(), b""), zmq.DONTWAIT)
