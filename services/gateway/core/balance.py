"""Which task gets the next connection of a published port, and which tasks are left alone for a while.

Used by the data plane, once per connection, so it is written for speed and imports nothing. What must stay true: a draining task
gets no new connection; at most half of a port's tasks are ejected; an ejected task comes back through one probing connection at a
time; when everything is ejected everything is used (panic mode), because a refused client is certain and a dead task is a guess.
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from typing import NamedTuple

from services.gateway.core import maglev
from services.gateway.core.latency import Latency

P2C = "p2c"
LEAST_CONN = "least_conn"
ROUND_ROBIN = "round_robin"
MAGLEV = "maglev"
STRIKES_TO_EJECT = 3
EJECTION_FIRST_S = 1.0
EJECTION_LONGEST_S = 30.0
EJECTION_JITTER_PERCENT = 20
PROBE_S = 1.0
"""An ejected task that is due gets one connection; the next one only after this time, unless the first one succeeded."""

SLOW_START_LEAST = 0.05
"""Part of its full share that a new task gets at first."""
LOCAL_LEEWAY = 4
"""A task of this node is preferred until it has so many connections more than twice those of another one."""

_MULTIPLIER = 6364136223846793005
_INCREMENT = 1442695040888963407
_MASK = (1 << 64) - 1


class Dice:
    """A small generator for ties and pairs (the standard one would bring libcrypto's memory along)."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, bound: int) -> int:
        """Return a number from 0 to bound - 1."""
        self._state = (self._state * _MULTIPLIER + _INCREMENT) & _MASK
        return (self._state >> 33) % bound

    def part(self) -> float:
        """Return a number from 0 up to, but without, 1."""
        return self.below(1 << 30) / (1 << 30)


class Rules(NamedTuple):
    """How a port chooses."""

    algorithm: str = P2C
    slow_start_s: float = 0.0
    local_first: bool = False


class Target:
    """One task behind a port, with what this worker knows of it."""

    __slots__ = (
        "addr",
        "answers",
        "bytes_in",
        "bytes_out",
        "connections",
        "connects",
        "credit",
        "draining",
        "ejected_until",
        "ejections",
        "failures",
        "level",
        "local",
        "node_id",
        "open",
        "port",
        "since",
        "strikes",
        "task_id",
        "via",
        "weight",
    )

    def __init__(
        self,
        task_id: str,
        addr: str,
        port: int,
        *,
        draining: bool = False,
        weight: float = 1.0,
        local: bool = False,
        node_id: str = "",
        via: str = "",
    ) -> None:
        self.task_id = task_id
        self.addr = addr
        self.port = port
        self.draining = draining
        self.weight = weight
        self.local = local
        """It runs on this node."""
        self.node_id = node_id
        self.via = via
        """``host:port`` of the gateway on its node, through which it is reached; empty when it is dialled directly."""
        self.since = float("-inf")
        """When it came to a port that had other tasks already."""
        self.credit = 0.0
        """Turns it has earned, for taking turns by weight."""
        self.open = 0
        self.connections = 0
        self.failures = 0
        self.ejections = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.connects = Latency()
        """How long connections to it took to make."""
        self.answers = Latency()
        """How long it took to begin its answers, on HTTP ports."""
        self.strikes = 0
        self.level = 0
        self.ejected_until = 0.0
        """0 when in use; else the time from which one connection may probe it."""


class Pool:
    """The tasks of one published port."""

    __slots__ = ("_dice", "_ejected", "_places", "_plain_from", "_rules", "_shares", "_usable", "targets")

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._rules = Rules()
        self._ejected = 0
        self._usable: list[Target] = []
        self._plain_from = float("-inf")
        """From this time on all tasks are equal and the plain choice of two is right."""
        self._shares: list[float] = []
        """Running sums of the usable tasks' full weights."""
        self._places: list[int] = []
        """For hashing: who has which place; empty until somebody asks."""
        self.targets: dict[str, Target] = {}

    def replace(self, wanted: list[Target], now: float = 0.0, rules: Rules | None = None) -> list[Target]:
        """Take this set of tasks instead, keeping what is known of those that stay; return those that left."""
        before = self.targets
        self.targets = {}
        for target in wanted:
            known = before.get(target.task_id)
            if known is not None and (known.addr, known.port, known.via) == (target.addr, target.port, target.via):
                known.draining, known.weight, known.local = target.draining, target.weight, target.local
                target = known
            elif before:
                target.since = now
            self.targets[target.task_id] = target
        if rules is not None:
            self._rules = rules
        self._usable = [target for target in self.targets.values() if not target.draining]
        self._ejected = sum(1 for target in self._usable if target.ejected_until)
        self._shares = list(accumulate(target.weight for target in self._usable))
        self._places = []
        self._plain_from = self._when_plain()
        kept = set(map(id, self.targets.values()))
        return [target for target in before.values() if id(target) not in kept]

    def choose(self, now: float, tried: tuple[Target, ...] = (), client: str = "") -> Target | None:
        """Return the task for a new connection that was not tried yet, or None when there is no such task."""
        usable = self._usable
        if self._ejected or tried:
            usable = self._in_service(now, tried)
        count = len(usable)
        if count <= 1:
            chosen = usable[0] if count else None
        elif now >= self._plain_from:
            dice = self._dice
            first = dice.below(count)
            second = dice.below(count - 1)
            one, other = usable[first], usable[second + (second >= first)]
            chosen = one if one.open <= other.open else other
        else:
            chosen = self._choose_by_rules(usable, now, client)
        if chosen is not None and chosen.ejected_until:
            chosen.ejected_until = max(chosen.ejected_until, now + PROBE_S)
        return chosen

    def succeeded(self, target: Target) -> None:
        """A connection to it was made: it is in service again."""
        target.strikes = 0
        if target.ejected_until:
            target.ejected_until = 0.0
            target.level = 0
            self._ejected = sum(1 for usable in self._usable if usable.ejected_until)

    def failed(self, target: Target, now: float, *, timed_out: bool) -> None:
        """A connection to it was refused or timed out; a time-out costs a client so much that one is enough."""
        target.failures += 1
        target.strikes += STRIKES_TO_EJECT if timed_out else 1
        if target.strikes < STRIKES_TO_EJECT or self.targets.get(target.task_id) is not target:
            return
        if not target.ejected_until:
            if target.draining or (self._ejected + 1) * 2 > len(self._usable):
                return
            self._ejected += 1
            target.ejections += 1
        jitter = 100 - EJECTION_JITTER_PERCENT + self._dice.below(2 * EJECTION_JITTER_PERCENT + 1)
        seconds = min(EJECTION_LONGEST_S, EJECTION_FIRST_S * (1 << target.level)) * jitter / 100
        target.level = min(target.level + 1, 5)
        target.ejected_until = now + seconds

    @property
    def ejected(self) -> int:
        """How many tasks are out of service by this worker's own judgement."""
        return self._ejected

    def _in_service(self, now: float, tried: tuple[Target, ...]) -> list[Target]:
        left = [target for target in self._usable if target not in tried]
        return [target for target in left if target.ejected_until <= now] or left

    def _when_plain(self) -> float:
        """Return from when on the plain choice of two is right; never, when the rules ask for something else."""
        rules = self._rules
        if rules.algorithm != P2C or rules.local_first or len({target.weight for target in self._usable}) > 1:
            return float("inf")
        newest = max((target.since for target in self._usable), default=float("-inf"))
        return newest + rules.slow_start_s if rules.slow_start_s else float("-inf")

    def _choose_by_rules(self, usable: list[Target], now: float, client: str) -> Target:
        """Choose one of several tasks as the port's rules say."""
        if self._rules.algorithm == MAGLEV:
            return self._by_place(usable, client)
        local = [target for target in usable if target.local] if self._rules.local_first else []
        if not local or len(local) == len(usable):
            return self._by_load(usable, now)
        near = self._by_load(local, now)
        far = self._by_load([target for target in usable if not target.local], now)
        return near if near.open <= 2 * far.open + LOCAL_LEEWAY else far

    def _by_load(self, usable: list[Target], now: float) -> Target:
        if len(usable) == 1:
            return usable[0]
        algorithm = self._rules.algorithm
        if algorithm == LEAST_CONN:
            return self._least_busy(usable, now)
        if algorithm == ROUND_ROBIN:
            return self._next_in_turn(usable, now)
        shares = self._shares
        if usable is not self._usable or self._rules.slow_start_s:
            shares = list(accumulate(self._weight(target, now) for target in usable))
        one, other = self._drawn(usable, shares), self._drawn(usable, shares)
        return one if one.open * self._weight(other, now) <= other.open * self._weight(one, now) else other

    def _drawn(self, usable: list[Target], shares: list[float]) -> Target:
        """Draw a task by weight."""
        return usable[bisect(shares, self._dice.part() * shares[-1], 0, len(shares) - 1)]

    def _least_busy(self, usable: list[Target], now: float) -> Target:
        """Return a task with the fewest connections for its weight, any of those that are alike."""
        load = [target.open / self._weight(target, now) for target in usable]
        least = min(load)
        alike = [target for target, busy in zip(usable, load, strict=True) if busy == least]
        return alike[self._dice.below(len(alike))]

    def _next_in_turn(self, usable: list[Target], now: float) -> Target:
        """Let each task have turns in proportion to its weight, evenly spread."""
        total = 0.0
        for target in usable:
            weight = self._weight(target, now)
            target.credit += weight
            total += weight
        chosen = max(usable, key=lambda target: target.credit)
        chosen.credit -= total
        return chosen

    def _by_place(self, usable: list[Target], client: str) -> Target:
        """Return the client's task, or the one at the next place that is usable now."""
        everyone = self._usable
        if not self._places:
            self._places = maglev.build([t.task_id for t in everyone], [t.weight for t in everyone])
        places, size = self._places, len(self._places)
        first = maglev.place_of(client, size)
        if usable is everyone:
            return everyone[places[first]]
        allowed = {id(target) for target in usable}
        for step in range(size):
            target = everyone[places[(first + step) % size]]
            if id(target) in allowed:
                return target
        return usable[0]

    def _weight(self, target: Target, now: float) -> float:
        """Return a task's weight, less while it is new."""
        slow_start_s = self._rules.slow_start_s
        if slow_start_s and now < target.since + slow_start_s:
            return target.weight * max(SLOW_START_LEAST, (now - target.since) / slow_start_s)
        return target.weight
