"""Free ports for tests: three in a row, as a node needs them."""

from __future__ import annotations

import os
import random
import socket

from services.kit.bus.ports import node_ports

FIRST, LAST = 21_000, 32_000
"""Below the range from which the kernel takes ports for outgoing connections."""


def free_remote_api(host: str = "127.0.0.1", rng: random.Random | None = None) -> str:
    """Return an address whose three ports are free now; test processes start at different places, so they rarely meet."""
    rng = rng or random.Random(f"{os.getpid()}/{os.urandom(4).hex()}")
    for _ in range(1000):
        address = f"{host}:{rng.randrange(FIRST, LAST, 3)}"
        if all(_is_free(place.host, place.port) for place in node_ports(address)):
            return address
    raise AssertionError("no free ports")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
