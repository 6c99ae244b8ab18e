"""Streams of gateways: the full route table, then every change. Part of a term; the rules are in core/routes."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator

from services.dispatcher.core.routes import RouteBook
from services.dispatcher.shell.bells import Bell, Bells
from services.kit.messages.routes import RouteTable
from services.kit.state.view import View

CHANGES_MAX = 64
"""A gateway that is this many changes behind gets the full table again."""


class RouteLines:
    """All gateways of a term."""

    def __init__(self, book: RouteBook, interval_s: float) -> None:
        self.book = book
        self.bells = Bells()
        self._interval_s = interval_s
        self._flushed_at = float("-inf")
        self._queues: dict[Bell, deque[RouteTable]] = {}

    async def watch(self) -> AsyncGenerator[RouteTable, None]:
        """Yield the table and its changes until the term is over."""
        bell = self.bells.add()
        queue = self._queues[bell] = deque([self.book.full()])
        try:
            while True:
                while queue:
                    yield queue.popleft()
                await bell.wait()
        finally:
            self.bells.remove(bell)
            del self._queues[bell]

    def flush(self, view: View, loop_now: float) -> None:
        """Hand out what changed, unless the last change was handed out just now."""
        if not self.book.is_stale or loop_now < self._flushed_at + self._interval_s:
            return
        self._flushed_at = loop_now
        table = self.book.refresh(view)
        if table is None:
            return
        for queue in self._queues.values():
            queue.append(table)
            if len(queue) > CHANGES_MAX:
                queue.clear()
                queue.append(self.book.full())
        self.bells.ring()

    def flush_in(self, loop_now: float) -> float | None:
        """Return in how many seconds ``flush`` has something to do, None when not before the next change."""
        if not self.book.is_stale:
            return None
        return max(0.0, self._flushed_at + self._interval_s - loop_now)
