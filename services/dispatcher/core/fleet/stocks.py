"""Generic resources by name: which ones a row has, which are with a task, and which a new task gets.

The dimension of a kind only counts; this says which. What was dealt is recorded with the task, and ``claim`` takes exactly that again
when tasks are read back, so a device never changes hands because a leader did. Used by the ledger, for groups that ask for such things.
"""

from __future__ import annotations

from services.kit.model.specs import GenericResource


class Stock:
    """One kind of generic resource on one row. A node offers names or a number; what tasks hold of either is kept through a change."""

    __slots__ = ("count", "count_held", "names", "names_held")

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.count = 0
        self.names_held: dict[str, int] = {}
        """Holders by name; more than one only when the stored tasks say so."""
        self.count_held = 0

    def offer(self, resource: GenericResource | None) -> None:
        """Change what the node has."""
        self.names = () if resource is None else resource.names
        self.count = 0 if resource is None else resource.count

    @property
    def free(self) -> int:
        """How many more can be dealt."""
        if self.names:
            return sum(name not in self.names_held for name in self.names)
        return self.count - self.count_held

    @property
    def idle(self) -> bool:
        """True when there is nothing to remember."""
        return not (self.names or self.count or self.names_held or self.count_held)

    def deal(self, kind: str, amount: int) -> GenericResource:
        """Give a task its share: the first free names, or a number."""
        if not self.names:
            self.count_held += amount
            return GenericResource(kind=kind, count=amount)
        names = tuple(name for name in self.names if name not in self.names_held)[:amount]
        self.names_held.update(dict.fromkeys(names, 1))
        return GenericResource(kind=kind, count=amount, names=names)

    def claim(self, dealt: GenericResource, sign: int = 1) -> None:
        """Take again what a task was dealt (or, with sign -1, take it back)."""
        if not dealt.names:
            self.count_held += sign * dealt.count
        for name in dealt.names:
            holders = self.names_held.get(name, 0) + sign
            if holders > 0:
                self.names_held[name] = holders
            else:
                self.names_held.pop(name, None)
