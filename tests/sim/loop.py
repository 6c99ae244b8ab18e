"""An asyncio loop in virtual time: when everybody waits, the clock jumps to the next timer.

The simulator runs the real shells of every process on one such loop, over the in-memory bus. What must stay true: nothing in a run depends
on real time, so the same seed gives the same run. Work for threads is done inline.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class Stalled(AssertionError):
    """Every task waits and no timer is left: nothing can ever happen again."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: lets the loop's clock jump instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.horizon = float("inf")

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is readable now, or let time jump by the timeout."""
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stalled("nothing is scheduled and everybody waits")
        if timeout > 0:
            self.now += timeout
            if self.now > self.horizon:
                raise Stalled(f"the run passed its horizon of {self.horizon} virtual seconds")
        return []


class InlineExecutor(Executor):
    """Runs at once, in the loop's own thread."""

    def submit(self, fn: Callable[..., ResultT], /, *args: Any, **kwargs: Any) -> Future[ResultT]:
        """Run the function and return its finished future."""
        future: Future[ResultT] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future carries it to whoever awaits
            future.set_exception(error)
        return future


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual seconds since its start."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # An executor that is no thread pool is refused by the setter, and a thread would bring real time back.
        self._default_executor = InlineExecutor()

    def time(self) -> float:
        """Return virtual seconds."""
        return self._jumping.now

    def set_horizon(self, seconds: float) -> None:
        """End the run with ``Stalled`` when virtual time passes this point."""
        self._jumping.horizon = seconds


class VirtualClock:
    """The Clock of one simulated node: the loop's time, with a drift and an offset of its own."""

    def __init__(self, loop: VirtualLoop, *, rate: float = 1.0, wall_offset: float = 0.0) -> None:
        self._loop = loop
        self._rate = rate
        self.wall_offset = wall_offset

    def monotonic(self) -> float:
        """Return the node's monotonic seconds."""
        return self._loop.time() * self._rate

    def wall(self) -> float:
        """Return the node's idea of the time of day; tests may step ``wall_offset``."""
        return 1_700_000_000.0 + self._loop.time() + self.wall_offset


def run_virtual(work: Callable[[VirtualLoop], Coroutine[Any, Any, ResultT]], *, horizon_s: float = 86_400.0) -> ResultT:
    """Run a coroutine to its end in virtual time."""
    loop = VirtualLoop()
    loop.set_horizon(horizon_s)
    try:
        return loop.run_until_complete(work(loop))
    finally:
        pending = asyncio.all_tasks(loop)
        for task in sorted(pending, key=lambda task: task.get_name()):
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.close()
