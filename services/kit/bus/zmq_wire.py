"""One live connection as the kernel knows it: its descriptor and who is at the other end. Used by ``zmq_listener`` to cut connections.

libzmq has no call to close one connection of a listener. ``shutdown(2)`` on a duplicate of its descriptor does it: libzmq reads the end of
the file and tears the connection down. A descriptor may have been reused meanwhile, so the other end's name is compared first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")


def peer_name(descriptor: int) -> object:
    """Return what tells this connection's other end from any other, or None when the descriptor is closed."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as wire:
            return _name(wire)
    except OSError:
        return None


def cut(descriptor: int, name: object) -> None:
    """Cut the connection behind a descriptor, if it still leads to the peer of this name."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as wire:
        if name is not None and _name(wire) == name:
            wire.shutdown(socket.SHUT_RDWR)


def _name(wire: socket.socket) -> object:
    return wire.getpeername() or wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
