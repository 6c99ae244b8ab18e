"""Which control socket a client talks to: the one it was given, else $SWARM_SOCKET, else the well-known one of this user."""

from __future__ import annotations

import os
from pathlib import Path

from services.kit.runtime.paths import well_known_socket

SOCKET_VARIABLE = "SWARM_SOCKET"


def control_socket(given: str | Path | None = None) -> str:
    """Return the path of the control socket; nothing is opened."""
    if given:
        return str(given)
    return os.environ.get(SOCKET_VARIABLE) or str(well_known_socket())
