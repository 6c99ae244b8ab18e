"""An asyncio loop in virtual time: when everybody waits, the clock jumps to the next timer.

The simulator runs the real shells of every process on one such loop, over the in-memory bus. What must stay true: nothing in a run depends
on real time, so the same seed gives the same run. Work for threads is done inline.

What runs in the context of a ``Party`` (a simulated process) can be halted, as SIGSTOP does: it waits in line until it goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class Party:
    """Whatever can be halted as a whole: its tasks, timers and callbacks."""

    def __init__(self) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Those that have not ended, in the order of their start."""
        self.halted = False
        self.waiting: deque[asyncio.Handle] = deque()

    def own(self, task: asyncio.Task[Any]) -> None:
        """Take note of a task that was started in this party's context."""
        self.tasks[task] = None
        task.add_done_callback(lambda ended: self.tasks.pop(ended, None))


PARTY: contextvars.ContextVar[Party | None] = contextvars.ContextVar("party", default=None)
"""Whose code is running."""


class Stalled(AssertionError):
    """Every task waits and no timer is left: nothing can ever happen again."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: lets the loop's clock jump instead."""

    def __init__(self, creep_s: float) -> None:
        super().__init__()
        self.now = 0.0
        self.horizon = float("inf")
        self.rounds = 0
        self._creep_s = creep_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is readable now, or let time jump by the timeout."""
        self.rounds += 1
        self.now += self._creep_s
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


class _ReadyLine(deque[asyncio.Handle]):
    """What the loop runs next; what belongs to a halted party waits with it instead."""

    def append(self, handle: asyncio.Handle, /) -> None:
        """Put a callback in line."""
        party = handle._context.get(PARTY)  # type: ignore[attr-defined]
        if party is not None and party.halted:
            party.waiting.append(handle)
        else:
            super().append(handle)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual seconds since its start.

    ``creep_s`` passes with every round of the loop: code that never waits cannot stop time.
    """

    def __init__(self, *, creep_s: float = 0.0) -> None:
        self._jumping = _JumpingSelector(creep_s)
        super().__init__(self._jumping)
        # An executor that is no thread pool is refused by the setter, and a thread would bring real time back.
        self._default_executor = InlineExecutor()
        self._ready = _ReadyLine()
        self.set_task_factory(_make_task)

    @property
    def rounds(self) -> int:
        """How often the loop has gone round."""
        return self._jumping.rounds

    def halt(self, party: Party) -> None:
        """Let nothing of this party run until ``go_on``."""
        party.halted = True
        ready, self._ready = self._ready, _ReadyLine()
        for handle in ready:
            self._ready.append(handle)

    def go_on(self, party: Party) -> None:
        """Let a halted party run again, beginning with what came in meanwhile."""
        party.halted = False
        waiting, party.waiting = party.waiting, deque()
        self._ready.extend(waiting)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._jumping.now

    def set_horizon(self, seconds: float) -> None:
        """End the run with ``Stalled`` when virtual time passes this point."""
        self._jumping.horizon = seconds


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Any, *, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    party = PARTY.get() if context is None else context.get(PARTY)
    if party is not None:
        party.own(task)
    return task


class VirtualClock:
    """The Clock of one simulated node: the loop's time, with a drift and an offset of its own."""

    def __init__(self, loop: VirtualLoop, *, rate: float = 1.0, wall_offset: float = 0.0) -> None:
        self._loop = loop
        self._rate = rate
        self.wall_offset = wall_offset

    def drift(self, parts: float) -> None:
        """Go faster, or slower when negative, by this part."""
        self._rate = 1.0 + parts

    def monotonic(self) -> float:
        """Return the node's monotonic seconds."""
        return self._loop.time() * self._rate

    def wall(self) -> float:
        """Return the node's idea of the time of day; tests may step ``wall_offset``."""
        return 1_700_000_000.0 + self.monotonic() + self.wall_offset


def run_virtual(work: Callable[[VirtualLoop], Coroutine[Any, Any, ResultT]], *, horizon_s: float = 86_400.0) -> ResultT:
    """Run a coroutine to its end in virtual time."""
    loop = VirtualLoop()
    loop.set_horizon(horizon_s)
    try:
        return loop.run_until_complete(work(loop))
    finally:
        try:
            pending = asyncio.all_tasks(loop)
            for task in sorted(pending, key=lambda task: task.get_name()):
                task.cancel()
            if pending:
                loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        finally:
            loop.close()
