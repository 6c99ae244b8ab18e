"""When this node asks for a fresh certificate: in good time before the old one runs out, at once when its role changed or the swarm wants it.

One machine a node, driven by ``shell/node.py``; time is wall time, because certificates are dated by it. What must stay true: a certificate
that works is asked to be replaced at a random moment between 50 and 80 % of its life, so that a fleet that joined together does not renew
together; a failure is followed by a pause that grows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from services.kit.model.states import Role

EARLIEST, LATEST = 0.5, 0.8
"""Parts of a certificate's life between which it is renewed."""
BACK_DATED_MAX_S = 3600.0
"""Certificates are dated back by this, or by their own life when that is shorter."""
URGENT_FIRST_S, URGENT_MAX_S = 0.2, 60.0
"""Pauses after failures while something waits for the new certificate."""
CALM_FIRST_S, CALM_MAX_S = 5.0, 3600.0
"""Pauses after failures while the old one is good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What matters of the certificate in use."""

    role: Role
    not_before: float
    not_after: float

    @property
    def issued_at(self) -> float:
        """When it was made, whatever it is dated back to."""
        whole_s = self.not_after - self.not_before
        return self.not_after - max(whole_s / 2, whole_s - BACK_DATED_MAX_S)


class Renewal:
    """See the module."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._held: Held | None = None
        self._role: Role | None = None
        self._rotate = False
        self._failures = 0
        self._at = 0.0

    def hold(self, held: Held, now: float) -> None:
        """Take the certificate in use. One that is still not what was wanted counts as a failure."""
        self._held = held
        self._rotate = False
        if self._is_urgent(now):
            self.failed(now)
            return
        self._failures = 0
        life_s = held.not_after - held.issued_at
        self._at = held.issued_at + life_s * self._rng.uniform(EARLIEST, LATEST)

    def want(self, role: Role | None, *, rotate: bool, now: float) -> None:
        """Take what the swarm says of this node: which role it observes, and whether it shall renew in any case."""
        changed = (role, rotate) != (self._role, self._rotate)
        self._role, self._rotate = role, rotate
        if changed and self._is_urgent(now):
            self._failures, self._at = 0, now

    def failed(self, now: float) -> None:
        """An attempt gave nothing."""
        assert self._held is not None, "there is a certificate to renew"
        self._failures += 1
        first_s, max_s = (URGENT_FIRST_S, URGENT_MAX_S) if self._is_urgent(now) else (CALM_FIRST_S, CALM_MAX_S)
        pause_s = min(max_s, first_s * 2.0 ** min(self._failures - 1, 20))
        left_s = self._held.not_after - now
        if left_s > 0:
            pause_s = min(pause_s, max(first_s, left_s / 4))  # as the end comes nearer it is tried more often
        self._at = now + pause_s * self._rng.uniform(0.5, 1.0)

    def due_in(self, now: float) -> float | None:
        """Return the time until the next attempt, zero for at once; None while there is no certificate."""
        return None if self._held is None else max(0.0, self._at - now)

    def is_expired(self, now: float) -> bool:
        """Tell whether the certificate in use has run out."""
        return self._held is not None and now >= self._held.not_after

    def _is_urgent(self, now: float) -> bool:
        held = self._held
        if held is None:
            return False
        return self._rotate or self._role not in {None, held.role} or now >= held.not_after
