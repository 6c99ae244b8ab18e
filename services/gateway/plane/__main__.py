"""``python -m services.gateway.plane PATH WORKER ORPHAN_S``: started by the gateway, which hands it listeners and routes."""

from __future__ import annotations

import sys

from services.gateway.plane.worker import Worker
from services.kit.runtime.clock import SystemClock


def main(path: str, worker: str, orphan_s: str) -> None:
    """Carry connections until told to stop, or until nobody has asked for this plane in ``orphan_s`` seconds."""
    Worker(path, int(worker), orphan_s=float(orphan_s), clock=SystemClock()).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
