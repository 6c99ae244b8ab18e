"""Water filling: how many tasks each branch gets so that the branches end as even as they can."""

from __future__ import annotations

from collections.abc import Sequence


def fill(have: Sequence[int], ties: Sequence[int], wanted: int) -> list[int]:
    """Return how many of ``wanted`` each vessel gets; the last ones go to the least ties among the lowest, earlier ones first."""
    if wanted == 1:
        shares = [0] * len(have)
        shares[min(range(len(have)), key=lambda index: (have[index], ties[index]))] = 1
        return shares
    level, over = even_level(have, wanted)
    shares = [max(level - each, 0) for each in have]
    if over:
        lowest = [index for index, each in enumerate(have) if each <= level]
        lowest.sort(key=lambda index: ties[index])
        for index in lowest[:over]:
            shares[index] += 1
    return shares


def even_level(have: Sequence[int], wanted: int) -> tuple[int, int]:
    """Return the height to which all lower vessels are filled, and what is over then."""
    ordered = sorted(have)
    for count, height in enumerate(ordered[1:], start=1):
        step = (height - ordered[count - 1]) * count
        if step >= wanted:
            return ordered[count - 1] + wanted // count, wanted % count
        wanted -= step
    return ordered[-1] + wanted // len(ordered), wanted % len(ordered)
