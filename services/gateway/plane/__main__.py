"""``python -m services.gateway.plane DOOR PATH WORKER ORPHAN_S``: started by the gateway, which hands it listeners and routes.

DOOR is the descriptor of a socket that listens on PATH.
"""

from __future__ import annotations

import gc
import socket
import sys

from services.gateway.plane.worker import Worker
from services.kit.runtime.clock import SystemClock


def main(door: str, path: str, worker: str, orphan_s: str) -> None:
    """Carry connections until told to stop, or until nobody has asked for this plane in ``orphan_s`` seconds."""
    gc.freeze()  # what was imported stays
    listening = socket.socket(fileno=int(door))
    Worker(listening, path, int(worker), orphan_s=float(orphan_s), clock=SystemClock()).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
