"""Who is let in: the two kinds of listener differ only in this. A desk judges for ZAP (before the handshake ends) and greets a HELLO (after).

- ``RemoteDesk``: CURVE over TCP. ZAP lets in every proven key that is not revoked; HELLO's certificate must then belong to that key. A peer
  without certificate is a joining machine with no role.
- ``LocalDesk``: a Unix socket. ZAP learns the peer's uid from the kernel and lets in our own user and root.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from services.kit.bus.api import Caller
from services.kit.errors import Unauthenticated
from services.kit.runtime.clock import Clock
from services.kit.wire import frames

if TYPE_CHECKING:
    from services.kit.bus.identity import Identity

CURVE_KEY_BYTES = 32
_UID = "uid:"
_MAPPED = "::ffff:"


class Desk(Protocol):
    """Decides who is let in."""

    @property
    def inside(self) -> bool:
        """Tell whether peers are processes of this node, whose stamps count."""

    def judge(self, address: str, mechanism: bytes, credentials: list[bytes]) -> str:
        """Return the user id for a connection that ZAP asks about; empty to refuse."""

    def greet(self, hello: frames.Hello, user_id: str, addr: str) -> Caller:
        """Return who says HELLO, or raise a SwarmError."""

    def certificate(self) -> bytes:
        """Return the certificate that WELCOME shows."""

    def revoke(self, public_key: bytes) -> None:
        """Refuse a key from now on."""

    def leave(self) -> None:
        """Free the address, as far as that can be done while connections live."""


class RemoteDesk:
    """The desk of a CURVE listener."""

    inside = False

    def __init__(self, identity: Callable[[], Identity], clock: Clock, *, grace_s: float) -> None:
        self._identity = identity
        self._grace_s = grace_s
        self._bound = identity()
        """The identity whose key the socket was bound with, with its newest certificate."""
        self._clock = clock
        self._revoked: set[str] = set()

    def judge(self, address: str, mechanism: bytes, credentials: list[bytes]) -> str:
        """Let in every proven key that is not revoked."""
        if mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != CURVE_KEY_BYTES:
            return ""
        user_id = credentials[0].hex()
        return "" if user_id in self._revoked else user_id

    def greet(self, hello: frames.Hello, user_id: str, addr: str) -> Caller:
        """Check the certificate against the proven key."""
        if user_id in self._revoked:
            raise Unauthenticated("the key is revoked")
        key = bytes.fromhex(user_id)
        host = addr.removeprefix(_MAPPED)
        if not hello.certificate:
            return Caller(addr=host, public_key=key, process=hello.process)
        caller = self._identity().check(hello.certificate, key, now=self._clock.wall(), grace_s=self._grace_s)
        return msgspec.structs.replace(caller, addr=host, process=hello.process)

    def certificate(self) -> bytes:
        """Return the newest certificate for the key that this listener proves."""
        identity = self._identity()
        if identity.public_key == self._bound.public_key:
            self._bound = identity
        return self._bound.certificate

    def revoke(self, public_key: bytes) -> None:
        """Refuse a key from now on."""
        self._revoked.add(public_key.hex())

    def leave(self) -> None:
        """Nothing: closing the port would cut the connections accepted through it."""


class LocalDesk:
    """The desk of a Unix socket."""

    def __init__(self, *, trusted: bool, leave: Callable[[], None]) -> None:
        self.inside = trusted
        self._allowed = frozenset({0, os.geteuid()})
        self._leave = leave

    def judge(self, address: str, mechanism: bytes, credentials: list[bytes]) -> str:
        """Let in our own user and root; libzmq reports ``localhost:uid:gid:pid`` as the kernel knows it."""
        host, _, rest = address.partition(":")
        uid = rest.partition(":")[0]
        if mechanism != b"NULL" or host != "localhost" or not uid.isdigit() or int(uid) not in self._allowed:
            return ""
        return f"{_UID}{uid}"

    def greet(self, hello: frames.Hello, user_id: str, addr: str) -> Caller:
        """Believe the process name: it means something only inside the node's directory."""
        return Caller(addr=user_id, process=hello.process)

    def certificate(self) -> bytes:
        """Return nothing: the directory's mode is the proof."""
        return b""

    def revoke(self, public_key: bytes) -> None:
        """Nothing: local peers have no keys."""

    def leave(self) -> None:
        """Remove the socket's file, so that a successor can listen."""
        self._leave()
