"""Which task gets the next connection of a published port, and which tasks are left alone for a while.

Used by the data plane, once per connection, so it is written for speed and imports nothing. What must stay true: a draining task
gets no new connection; at most half of a port's tasks are ejected; an ejected task comes back through one probing connection at a
time; when everything is ejected everything is used (panic mode), because a refused client is certain and a dead task is a guess.
"""

from __future__ import annotations

STRIKES_TO_EJECT = 3
EJECTION_FIRST_S = 1.0
EJECTION_LONGEST_S = 30.0
EJECTION_JITTER_PERCENT = 20
PROBE_S = 1.0
"""An ejected task that is due gets one connection; the next one only after this time, unless the first one succeeded."""

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


class Target:
    """One task behind a port, with what this worker knows of it."""

    __slots__ = (
        "addr",
        "bytes_in",
        "bytes_out",
        "connections",
        "draining",
        "ejected_until",
        "ejections",
        "failures",
        "level",
        "open",
        "port",
        "strikes",
        "task_id",
    )

    def __init__(self, task_id: str, addr: str, port: int, *, draining: bool = False) -> None:
        self.task_id = task_id
        self.addr = addr
        self.port = port
        self.draining = draining
        self.open = 0
        self.connections = 0
        self.failures = 0
        self.ejections = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.strikes = 0
        self.level = 0
        self.ejected_until = 0.0
        """0 when in use; else the time from which one connection may probe it."""


class Pool:
    """The tasks of one published port."""

    __slots__ = ("_dice", "_ejected", "_usable", "targets")

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._ejected = 0
        self._usable: list[Target] = []
        self.targets: dict[str, Target] = {}

    def replace(self, wanted: list[Target]) -> list[Target]:
        """Take this set of tasks instead, keeping what is known of those that stay; return those that left."""
        before = self.targets
        self.targets = {}
        for target in wanted:
            known = before.get(target.task_id)
            if known is not None and (known.addr, known.port) == (target.addr, target.port):
                known.draining = target.draining
                target = known
            self.targets[target.task_id] = target
        self._usable = [target for target in self.targets.values() if not target.draining]
        self._ejected = sum(1 for target in self._usable if target.ejected_until)
        kept = set(map(id, self.targets.values()))
        return [target for target in before.values() if id(target) not in kept]

    def choose(self, now: float, tried: tuple[Target, ...] = ()) -> Target | None:
        """Return the less busy of two random tasks that were not tried yet, or None when there is no such task."""
        usable = self._usable
        if self._ejected or tried:
            usable = self._in_service(now, tried)
        count = len(usable)
        if count <= 1:
            chosen = usable[0] if count else None
        else:
            dice = self._dice
            first = dice.below(count)
            second = dice.below(count - 1)
            one, other = usable[first], usable[second + (second >= first)]
            chosen = one if one.open <= other.open else other
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
