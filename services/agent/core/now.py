"""The two clocks as one value, read once per event by the shell and handed to a machine's ``step``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Now:
    """The moment of an event."""

    monotonic: float
    """For deadlines."""
    wall: float
    """For timestamps that people read."""
