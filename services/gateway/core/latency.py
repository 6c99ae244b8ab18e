"""How long things took, counted in classes. Used by the data plane once per connection or request, and by whoever adds numbers up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the classes; what took longer is in one more."""


class Latency:
    """A sum and a number per class."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.sum_s = 0.0
        self.counts = [0] * (len(BOUNDS_S) + 1)

    def took(self, seconds: float) -> None:
        """Take note of one."""
        self.sum_s += seconds
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1

    def add(self, numbers: Sequence[float]) -> None:
        """Take note of all that another one knows, written as ``numbers``."""
        self.sum_s += numbers[0]
        self.counts = [mine + int(theirs) for mine, theirs in zip(self.counts, numbers[1:], strict=True)]

    @property
    def numbers(self) -> list[float]:
        """The sum, and the number in each class."""
        return [round(self.sum_s, 6), *self.counts]
