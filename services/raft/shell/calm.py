"""What keeps the turns of the member short while something large goes on in its process: a snapshot, a state of millions of objects.

A thread that computes gives the interpreter up only when asked, and the loop asks again after every system call: with Python's usual five
milliseconds a turn of twenty calls takes a tenth of a second, and elections begin. What must stay true: whoever works in a thread does so in
pieces of about a millisecond and breathes between them.
"""

from __future__ import annotations

import gc
import sys
import threading

_SWITCH_S = 0.0005
_GC_THRESHOLDS = (2_000, 10, 10_000)
"""Small passes over what is young; full ones, which would look at the whole state, hardly ever."""
BREATH_S = 0.0005


def keep_calm() -> None:
    """Set the process up; called once, before anything runs."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.freeze()


def breathe() -> None:
    """Let the loop go first; called in threads."""
    threading.Event().wait(BREATH_S)
