"""The plane's event loop: epoll, timers, and connections that want another turn.

One per worker. What must stay true: a turn is bounded, so that no connection starves the others; a descriptor is closed only after
the events that were fetched with it, so that no event reaches a newcomer which got the same number.
"""

from __future__ import annotations

import heapq
import select
from collections.abc import Callable
from typing import Protocol

from services.kit.runtime.clock import Clock

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
BOTH_ON_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_EVENTS_PER_TURN = 512

OnEvent = Callable[[int], None]


class Closing(Protocol):
    """What has a descriptor and can be closed."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close it."""


class Timer:
    """A callback that is due at a time; cancelled by ``cancel``."""

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Never run; idempotent."""
        self.cancelled = True


class Loop:
    """Runs handlers until stopped."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._epoll = select.epoll()
        self._handlers: dict[int, OnEvent] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._again: list[Callable[[], None]] = []
        self._doomed: list[Closing] = []
        self._stopped = False
        self.now = self._monotonic()
        """Time at the start of this turn."""

    def watch(self, fd: int, handler: OnEvent, events: int) -> None:
        """Call the handler with the events of this descriptor."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def hand_over(self, fd: int, handler: OnEvent) -> None:
        """Call another handler for a descriptor that is watched already."""
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Watch for other events from now on."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor that stays open."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close_later(self, sock: Closing) -> None:
        """Forget the socket now and close it at the end of this turn."""
        self._handlers.pop(sock.fileno(), None)
        self._doomed.append(sock)

    def again(self, work: Callable[[], None]) -> None:
        """Run this once in the next turn."""
        self._again.append(work)

    def later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run this once after a delay."""
        timer = Timer(callback)
        self._timer_count += 1
        heapq.heappush(self._timers, (self.now + delay_s, self._timer_count, timer))
        return timer

    def stop(self) -> None:
        """End ``run`` after this turn."""
        self._stopped = True

    def run(self) -> None:
        """Run until stopped."""
        while not self._stopped:
            self.turn(self._wait_s())
        self._epoll.close()

    def turn(self, wait_s: float) -> None:
        """Wait at most this long (-1: for ever) for something to do, and do it."""
        found = self._epoll.poll(wait_s, _EVENTS_PER_TURN)
        self.now = self._monotonic()
        handlers = self._handlers
        for fd, events in found:
            handler = handlers.get(fd)
            if handler is not None:
                handler(events)
        if self._again:
            again, self._again = self._again, []
            for work in again:
                work()
        for timer in self._due():
            if not timer.cancelled:
                timer.callback()
        if self._doomed:
            for sock in self._doomed:
                sock.close()
            self._doomed.clear()

    def _due(self) -> list[Timer]:
        """Return the timers whose time has come; what they set has to wait for the next turn, so that a turn ends."""
        due = []
        while self._timers and self._timers[0][0] <= self.now:
            due.append(heapq.heappop(self._timers)[2])
        return due

    def _wait_s(self) -> float:
        if self._again:
            return 0.0
        timers = self._timers
        while timers and timers[0][2].cancelled:
            heapq.heappop(timers)
        return max(0.0, timers[0][0] - self.now) if timers else -1.0
