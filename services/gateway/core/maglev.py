"""Maglev hashing: a table that gives each task its share of all clients, and moves few clients when a task comes or goes.

Built by a port's pool. The same tasks and weights give the same table on every gateway, so a client comes to the same task whichever node
it asks. Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

SIZES = (1021, 8191, 65537)
"""Prime. A table has at least twenty places for each task, up to the largest size."""
PLACES_PER_TASK = 20


def build(names: Sequence[str], weights: Sequence[float]) -> list[int]:
    """Return for each place of the table the index of the task that has it; there is at least one task."""
    size = next((size for size in SIZES if size >= PLACES_PER_TASK * len(names)), SIZES[-1])
    heaviest = max(weights)
    order = sorted(range(len(names)), key=names.__getitem__)
    position = {index: crc32(names[index].encode()) % size for index in order}
    step = {index: crc32(names[index].encode(), 1) % (size - 1) + 1 for index in order}
    credit = dict.fromkeys(order, 0.0)
    table = [-1] * size
    free = size
    while True:
        for index in order:
            credit[index] += weights[index] / heaviest
            if credit[index] < 1:
                continue
            credit[index] -= 1
            place = position[index]
            while table[place] >= 0:
                place = (place + step[index]) % size
            table[place] = index
            position[index] = (place + step[index]) % size
            free -= 1
            if not free:
                return table


def place_of(client: str, size: int) -> int:
    """Return the place of a client in a table of this size."""
    return crc32(client.encode()) % size
