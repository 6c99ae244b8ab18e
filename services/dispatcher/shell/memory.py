"""How the dispatcher's process treats Python's collector of cycles.

What the store holds is not tracked by it, and what the loops make is freed by reference counts; what is left to find is little, and every
full pass over a large swarm's indexes would be a pause that its agents notice.
"""

from __future__ import annotations

import gc

_THRESHOLDS = (2_000, 10, 10_000)
"""Small passes over what is young, of a few milliseconds at most; full ones hardly ever."""


def collect_rarely() -> None:
    """Look for cycles less often, through everything hardly ever, and never again at what is there now."""
    gc.set_threshold(*_THRESHOLDS)
    gc.freeze()
