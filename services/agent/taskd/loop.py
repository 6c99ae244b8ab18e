"""The loop of taskd: one epoll, timers in a heap, signals through a pipe. Callbacks run one after another and must not block."""

from __future__ import annotations

import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
_EVENTS_MAX = 256


class Timer:
    """A call that is to come."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        """Make it not happen."""
        self.cancelled = True

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Loop:
    """Waits for descriptors, moments and signals until told to stop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._signals: dict[int, Callable[[], None]] = {}
        self._stopped = False
        self._signal_in, self._signal_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._signal_out, warn_on_full_buffer=False)
        self.watch(self._signal_in, READ, self._on_signals)

    def now(self) -> float:
        """Return the monotonic clock."""
        return time.monotonic()

    def watch(self, descriptor: int, events: int, call: Callable[[int], None]) -> None:
        """Call with the events whenever the descriptor has some."""
        self._readers[descriptor] = call
        self._epoll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events of a watched descriptor."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Stop watching; before the descriptor is closed."""
        del self._readers[descriptor]
        self._epoll.unregister(descriptor)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call once, at this moment of ``now``."""
        timer = Timer(when, call)
        heapq.heappush(self._timers, timer)
        return timer

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Call in the loop after a signal has come; several may be one call."""
        self._signals[number] = call
        signal.signal(number, _ignore)

    def stop(self) -> None:
        """Return from ``run`` after the current callback, or at once when it comes before."""
        self._stopped = True

    def run(self) -> None:
        """Run until ``stop``."""
        while not self._stopped:
            self._run_readers(self._epoll.poll(self._timeout(), _EVENTS_MAX))
            self._run_timers()

    def _run_readers(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, events in ready:
            # A callback earlier in this round may have closed the descriptor, or stopped the loop.
            call = self._readers.get(descriptor)
            if call is not None and not self._stopped:
                call(events)

    def _timeout(self) -> float:
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].when - self.now()) if self._timers else -1

    def _run_timers(self) -> None:
        now = self.now()
        while not self._stopped and self._timers and (self._timers[0].cancelled or self._timers[0].when <= now):
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.call()

    def _on_signals(self, _: int) -> None:
        for number in sorted(set(os.read(self._signal_in, 4096))):
            call = self._signals.get(number)
            if call is not None:
                call()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Stand as a handler, so that the signal reaches the wake-up pipe and a child gets the default back on exec."""
