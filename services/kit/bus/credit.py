"""Byte credit of a stream: the sender's side (``Window``) and the receiver's side (``Inbox``). Used by both ends of a connection.

The receiver grants, and gives back when half of its window has been consumed; the sender may overdraw by one item, so that an item
larger than the window still moves. What must stay true: a receiver that stops reading stops the sender after one window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from services.kit.errors import InvalidArgument, SwarmError

ItemT = TypeVar("ItemT")

ITEM_COST_BYTES = 64
"""Charged beside its bytes for each item, so that tiny items are bounded in number too."""


def cost(body: bytes) -> int:
    """Return the credit that an item uses up."""
    return len(body) + ITEM_COST_BYTES


class Window:
    """The sender's credit."""

    __slots__ = ("_waiter", "left")

    def __init__(self, granted: int) -> None:
        self.left = granted
        self._waiter: asyncio.Future[None] | None = None

    def grant(self, credit: int) -> None:
        """Take what the receiver gives."""
        self.left += credit
        if self.left > 0 and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def room(self) -> None:
        """Wait until something may be sent."""
        while self.left <= 0:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None


class Inbox(Generic[ItemT]):
    """The receiver's queue: an async iterator of decoded items, bounded by the window."""

    __slots__ = ("_consumed", "_decode", "_ended", "_error", "_give_back", "_held", "_items", "_waiter", "_window")

    def __init__(self, window: int, give_back: Callable[[int], None], decode: Callable[[bytes], ItemT]) -> None:
        self._window = window
        self._give_back = give_back
        self._decode = decode
        self._items: deque[bytes] = deque()
        self._held = 0
        self._consumed = 0
        self._ended = False
        self._error: SwarmError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, body: bytes) -> None:
        """Queue an item; raises InvalidArgument when the sender ignores its credit."""
        if self._held >= self._window:
            raise InvalidArgument("the sender of a stream ignores its credit")
        self._held += cost(body)
        self._items.append(body)
        self._wake()

    def end(self, error: SwarmError | None = None) -> None:
        """End the stream after what is queued, with an error or well."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        body = self._items.popleft()
        spent = cost(body)
        self._held -= spent
        self._consumed += spent
        if self._consumed * 2 >= self._window and not self._ended:
            self._give_back(self._consumed)
            self._consumed = 0
        return self._decode(body)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
