"""Reads the first words of TLS: which name a client asks for, and nothing else. Sources: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3.

Pure, standard library only. What must stay true: any bytes are read, refused (BrokenHello) or asked on (None), in bounded time.
"""

from __future__ import annotations

HELLO_BYTES_MAX = 16_384
"""A client's first words are far shorter; longer ones are refused."""
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
_RECORD_BYTES_MAX = 16_384


class BrokenHello(Exception):
    """These are not the first words of TLS."""


def server_name(data: bytes) -> str | None:
    """Return the name that a client asks for ("" when it names none), None when more must come; raises BrokenHello."""
    hello = _handshake(data)
    if hello is None:
        if len(data) >= HELLO_BYTES_MAX:
            raise BrokenHello("too long")
        return None
    try:
        return _name_in(hello)
    except (IndexError, UnicodeDecodeError) as error:
        raise BrokenHello(str(error)) from None


def _handshake(data: bytes) -> bytes | None:
    """Return the body of the client's hello, put together from its records; None when it is not whole."""
    message = b""
    place = 0
    while place < len(data):
        head = data[place : place + 5]
        if head[0] != _HANDSHAKE or (len(head) > 1 and head[1] != 3):
            raise BrokenHello("not TLS")
        if len(head) < 5:
            return None
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= _RECORD_BYTES_MAX:
            raise BrokenHello("a record without an acceptable length")
        message += data[place + 5 : place + 5 + length]
        place += 5 + length
        if message and message[0] != _CLIENT_HELLO:
            raise BrokenHello("not a client's hello")
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if size > HELLO_BYTES_MAX:
                raise BrokenHello("too long")
            if len(message) >= 4 + size:
                return message[4 : 4 + size]
    return None


class _Reader:
    """Takes bytes from the front; raises IndexError when there are not enough."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def is_empty(self) -> bool:
        return self._place >= len(self._data)

    def take(self, count: int) -> bytes:
        if self._place + count > len(self._data):
            raise IndexError("cut short")
        self._place += count
        return self._data[self._place - count : self._place]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def block(self, width: int) -> bytes:
        """Take what a length of so many bytes stands before."""
        return self.take(self.number(width))


def _name_in(hello: bytes) -> str:
    reader = _Reader(hello)
    reader.take(2 + 32)  # version and random
    reader.block(1)  # session
    reader.block(2)  # ciphers
    reader.block(1)  # compressions
    if reader.is_empty:
        return ""
    extensions = _Reader(reader.block(2))
    while not extensions.is_empty:
        kind, content = extensions.number(2), extensions.block(2)
        if kind == _SERVER_NAME:
            names = _Reader(_Reader(content).block(2))
            while not names.is_empty:
                if names.number(1) == _HOST_NAME:
                    return names.block(2).decode("ascii").lower()
                names.block(2)
    return ""
