"""The log in memory: a gap-free run of entries, and the arithmetic between log indexes and list positions.

The first entry kept stands for everything before it (it is the snapshot's last, or the very first no-op), so the run is never
empty once begun. Used by the shell's log, by the repair of incoming entries and by the outgoing windows.
"""

from __future__ import annotations

from typing import NamedTuple

NO_OP = b"\x01"
"""The command of an entry that only marks a term (pysyncobj's own)."""


class Entry(NamedTuple):
    """One entry; the order of the fields is the library's."""

    command: bytes
    index: int  # type: ignore[assignment]  # the tuple's own method of this name is not used
    term: int


class Entries:
    """Entries ``first`` to ``last`` without a gap."""

    def __init__(self) -> None:
        self.items: list[Entry] = []
        self.bytes = 0

    def __len__(self) -> int:
        """Return how many entries are kept."""
        return len(self.items)

    @property
    def first(self) -> int:
        """Index of the oldest entry kept; 0 when there is none."""
        return self.items[0].index if self.items else 0

    @property
    def last(self) -> int:
        """Index of the newest entry; 0 when there is none."""
        return self.items[-1].index if self.items else 0

    @property
    def last_term(self) -> int:
        """Term of the newest entry; 0 when there is none."""
        return self.items[-1].term if self.items else 0

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry, None when it is not kept."""
        if not self.items or not self.first <= index <= self.last:
            return None
        return self.items[index - self.first].term

    def between(self, first: int, last: int) -> list[Entry]:
        """Return the entries from ``first`` to ``last``, both included, as far as they are kept."""
        if not self.items:
            return []
        start = max(first, self.first) - self.first
        return self.items[start : max(start, last - self.first + 1)]

    def append(self, entry: Entry) -> None:
        """Add the next entry."""
        assert not self.items or entry.index == self.last + 1, f"entry {entry.index} after {self.last}"
        self.items.append(entry)
        self.bytes += len(entry.command)

    def cut_from(self, index: int) -> None:
        """Forget the entry at ``index`` and all behind it."""
        if self.items and index <= self.last:
            self._forget(slice(max(0, index - self.first), None))

    def drop_before(self, index: int) -> None:
        """Forget the entries before ``index``; the last one is always kept."""
        if self.items:
            self._forget(slice(0, max(0, min(index, self.last) - self.first)))

    def tail(self, end: int, count: int, bytes_max: int) -> int:
        """Return the index from which ``count`` entries up to ``end`` are kept, fewer when they hold more than so many bytes."""
        index, held = end, 0
        while index > self.first and end - index < count:
            held += len(self.items[index - 1 - self.first].command)
            if held > bytes_max:
                break
            index -= 1
        return index

    def begin_at(self, index: int, term: int) -> None:
        """Forget everything and stand on one entry that was applied elsewhere (an installed snapshot's last)."""
        self.items = [Entry(NO_OP, index, term)]
        self.bytes = len(NO_OP)

    def _forget(self, part: slice) -> None:
        self.bytes -= sum(len(entry.command) for entry in self.items[part])
        del self.items[part]
