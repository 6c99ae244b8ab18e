"""The dispatcher's wall clock: it goes on from where the leader before it had come, and never goes back.

Managers' clocks differ. A leader whose clock is behind that of the one before would stamp its objects as older than those that were there
already, and what an update or a restart decides by comparing stamps would be wrong. So every dispatcher hears the stamps of the store while it
stands by, begins its term no earlier than those, and from there on comes nearer to its machine's time a little every second, without
a jump. Made by the app, which gives it to everything in this process that asks for the time.
"""

from __future__ import annotations

from services.kit.runtime.clock import Clock

SLEW = 0.1
"""By this part of the time that passes the clock may go faster or slower than the machine's."""
AHEAD_MAX_S = 600.0
"""A stamp that is further ahead was made by a clock that was wrong, not by one that differs."""


class SwarmClock:
    """See the module (``kit.runtime.clock.Clock``)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._now = clock.wall()

    def monotonic(self) -> float:
        """Return the machine's monotonic clock."""
        return self._clock.monotonic()

    def wall(self) -> float:
        """Return seconds since the epoch, as this swarm counts them."""
        at = self._clock.monotonic()
        passed = max(0.0, at - self._at)
        self._at = at
        slowest, fastest = self._now + passed * (1 - SLEW), self._now + passed * (1 + SLEW)
        self._now = min(max(self._clock.wall(), slowest), fastest)
        return self._now

    def heard(self, stamp: float) -> None:
        """Take a stamp of the store, made by whoever leads."""
        if 0.0 < stamp - self.wall() <= AHEAD_MAX_S:
            self._now = stamp

    def begin_term(self) -> None:
        """From now on this clock is the leader's: catch up with the machine's if that is ahead."""
        self._now = max(self.wall(), self._clock.wall())
