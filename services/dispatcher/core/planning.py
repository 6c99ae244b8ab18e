"""One pass of all loops: changes come in, keys become due, loops plan in their order, steps go to the desk, transactions come out.

Called by the shell's term (and by the convergence harness of the tests) in this cycle: ``absorb`` what the store applied, ``run``
when ``due`` says so, propose the flights, ``answer`` with the results. What must stay true: a key whose step could not be taken
or did not take effect is planned again; work is in proportion to what changed, never to the size of the swarm.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import cast

from services.dispatcher.core.desk import Desk, Flight, Landed, Place
from services.dispatcher.core.picture import Bunch, Key, Loop, Step
from services.kit.state.state import Event, State
from services.kit.state.tables import TYPES, Table
from services.kit.state.transaction import TxResult

RETRY_S = 0.05
"""A key whose writes the store refused rests this long, so that a lasting conflict does not spin."""

Tag = tuple[int, Key]
"""Which loop planned a step, for which key."""


class Planning:
    """The loops of one term of leadership, around one desk."""

    def __init__(self, state: State, loops: Sequence[Loop]) -> None:
        self.desk = Desk(state)
        self._loops = tuple(loops)
        self._watchers: dict[Table, list[tuple[int, Loop]]] = {table: [] for table in TYPES}
        for index, loop in enumerate(self._loops):
            for table in sorted(loop.tables):
                self._watchers[table].append((index, loop))
        self._due: list[dict[Key, None]] = [dict.fromkeys(loop.begin(self.desk)) for loop in self._loops]
        self._wakes: list[tuple[float, int, int, Key]] = []
        self._wake_at: dict[Tag, float] = {}
        self._wake_count = 0
        self._held: dict[Place, dict[Tag, None]] = {}

    # -- what comes in

    def absorb(self, events: Sequence[Event], now: float) -> None:
        """Take changes that the state below has just absorbed."""
        news, landed = self.desk.absorbed(events)
        self._tell(news)
        self._land(landed, now)

    def answer(self, number: int, result: TxResult, now: float) -> None:
        """Take the store's result of a flight."""
        self._land(self.desk.answered(number, result), now)

    def nudge(self, loop: Loop, keys: Iterable[Key]) -> None:
        """Make keys of a loop due (new input reached it otherwise than by the store)."""
        self._due[self._loops.index(loop)].update(dict.fromkeys(keys))

    # -- what goes out

    def due(self) -> float | None:
        """Return when to run next: 0 for at once, a time on the leader's clock, or None for not before the next change."""
        if any(self._due):
            return 0.0
        self._drop_stale_wakes()
        return self._wakes[0][0] if self._wakes else None

    def run(self, now: float) -> list[Flight]:
        """Let every loop plan what is due, in order, and return the transactions that come of it."""
        self._wake(now)
        for index, loop in enumerate(self._loops):
            keys = self._due[index]
            if not keys:
                continue
            self._due[index] = {}
            plan = loop.plan(self.desk, tuple(keys), now)
            for step in plan.steps:
                if isinstance(step, Bunch):
                    self._put_bunch(index, step)
                else:
                    self._put(index, step)
            for key, at in plan.wakes.items():
                self._wake_later((index, key), at)
        return self.desk.pack()

    def cause(self, flight: Flight) -> str:
        """Return the names of the loops that a transaction is of, in their order."""
        indexes = {cast("Tag", tag)[0] for tag in flight.tags}
        return ", ".join(self._loops[index].name for index in sorted(indexes))

    @property
    def is_converged(self) -> bool:
        """True when there is nothing to plan and nothing under way (what waits for a time does not count)."""
        return self.desk.is_clear and not any(self._due) and not self._held

    # -- inside

    def _put(self, index: int, step: Step) -> None:
        held = self.desk.held(step)
        if held is not None:
            self._held.setdefault(held, {})[(index, step.key)] = None
            return
        self._tell(self.desk.take(step, (index, step.key)))

    def _put_bunch(self, index: int, bunch: Bunch) -> None:
        tag = (index, bunch.key)
        events, held = self.desk.take_bunch(bunch.puts, tag)
        for place in held:
            self._held.setdefault(place, {})[tag] = None
        self._tell(events)

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            for index, loop in self._watchers[event.table]:
                for key in loop.notice(self.desk, event):
                    self._due[index][key] = None

    def _land(self, landed: Iterable[Landed], now: float) -> None:
        for flight in landed:
            self._tell(flight.events)
            if not flight.applied:
                for tag in flight.tags:
                    self._wake_later(cast("Tag", tag), now + RETRY_S)
            if self._held:
                for place in flight.freed:
                    for index, key in self._held.pop(place, ()):
                        self._due[index][key] = None

    def _wake_later(self, tag: Tag, at: float) -> None:
        earlier = self._wake_at.get(tag)
        if earlier is not None and earlier <= at:
            return
        self._wake_at[tag] = at
        self._wake_count += 1
        heapq.heappush(self._wakes, (at, self._wake_count, *tag))

    def _wake(self, now: float) -> None:
        while self._wakes and self._wakes[0][0] <= now:
            at, _, index, key = heapq.heappop(self._wakes)
            if self._wake_at.get((index, key)) == at:
                del self._wake_at[index, key]
                self._due[index][key] = None

    def _drop_stale_wakes(self) -> None:
        while self._wakes and self._wake_at.get((self._wakes[0][2], self._wakes[0][3])) != self._wakes[0][0]:
            heapq.heappop(self._wakes)
