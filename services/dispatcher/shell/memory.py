"""How the dispatcher's process treats Python's collector of cycles.

What the store holds is not tracked by it, and what the loops make is freed by reference counts; what is left to find is little, and every
full pass over a large swarm's indexes would be a pause that its agents notice.
"""

from __future__ import annotations

import gc

_THRESHOLDS = (100_000, 50, 100)


def collect_rarely() -> None:
    """Look for cycles a hundred times less often, and never again at what is there now."""
    gc.set_threshold(*_THRESHOLDS)
    gc.freeze()
