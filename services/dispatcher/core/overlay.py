"""A table with changes laid over it: reads see the changes, the table below stays as it is. Used by the desk for each table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=str)
ThingT = TypeVar("ThingT")


class Overlay(Mapping[KeyT, ThingT], Generic[KeyT, ThingT]):
    """A mapping over another one; a change to None hides what is below."""

    __slots__ = ("_below", "changes")

    def __init__(self, below: Mapping[KeyT, ThingT]) -> None:
        self._below = below
        self.changes: dict[KeyT, ThingT | None] = {}

    def __getitem__(self, key: KeyT) -> ThingT:
        """Return what is seen under a key."""
        found = self.find(key)
        if found is None:
            raise KeyError(key)
        return found

    def find(self, key: KeyT) -> ThingT | None:
        """Return what is seen under a key, or None."""
        if key in self.changes:
            return self.changes[key]
        return self._below.get(key)

    def get(self, key: KeyT, default: ThingT | None = None) -> ThingT | None:  # type: ignore[override]
        """Return what is seen under a key, or the default."""
        found = self.find(key)
        return default if found is None else found

    def __contains__(self, key: object) -> bool:
        """Tell whether anything is seen under a key."""
        return self.find(key) is not None  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[KeyT]:
        """Yield what is below first, then what was added."""
        changes = self.changes
        if not changes:
            yield from self._below
            return
        for key in self._below:
            if key not in changes or changes[key] is not None:
                yield key
        for key, thing in changes.items():
            if thing is not None and key not in self._below:
                yield key

    def __len__(self) -> int:
        """Count what is seen."""
        size = len(self._below)
        for key, thing in self.changes.items():
            size += (thing is not None) - (key in self._below)
        return size
