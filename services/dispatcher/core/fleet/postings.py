"""Which rows have which value under a key (labels, host name, role, platform), and which rows lie in which network.

A change of one label is two small updates here and nothing else anywhere: verdicts of constraints are not kept, they are read off these
sets when a group is planned. Values are kept as they are written; constraints compare them whatever their case.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType

from services.dispatcher.core.fleet.bits import Bits, bits_of

_SPARSE_MAX = 8
"""Sets of at most this many rows are kept as rows: a million host names must not cost a million bitsets."""


class Posting:
    """The rows with one value."""

    __slots__ = ("_bits", "_rows")

    def __init__(self) -> None:
        self._rows: list[int] | None = []
        self._bits: Bits = 0

    @property
    def bits(self) -> Bits:
        """The set of rows."""
        return self._bits if self._rows is None else bits_of(self._rows)

    def fill(self, rows: list[int]) -> None:
        """Be the posting of these rows; the list is kept."""
        if len(rows) > _SPARSE_MAX:
            self._bits, self._rows = bits_of(rows), None
        else:
            self._rows = rows

    def add(self, row: int) -> None:
        """Take a row in."""
        if self._rows is None:
            self._bits |= 1 << row
        else:
            self._rows.append(row)
            if len(self._rows) > _SPARSE_MAX:
                self._bits, self._rows = bits_of(self._rows), None

    def discard(self, row: int) -> None:
        """Take a row out."""
        if self._rows is None:
            self._bits &= ~(1 << row)
        else:
            self._rows.remove(row)

    def __bool__(self) -> bool:
        """Tell whether any row has the value."""
        return bool(self._bits or self._rows)


_NOTHING: Mapping[str, Posting] = MappingProxyType({})


class Postings:
    """Rows by key and value."""

    __slots__ = ("_by_value", "_spellings")

    def __init__(self) -> None:
        self._by_value: dict[str, dict[str, Posting]] = {}
        self._spellings: dict[tuple[str, str], tuple[str, ...]] = {}
        """How the values that are equal whatever their case are written."""

    def add(self, key: str, value: str, row: int) -> None:
        """Say that a row has a value. It must not have one under the key already."""
        self._posting(key, value).add(row)

    def add_all(self, key: str, value: str, rows: list[int]) -> None:
        """Say that these rows, and no others, have a value."""
        self._posting(key, value).fill(rows)

    def _posting(self, key: str, value: str) -> Posting:
        values = self._by_value.setdefault(key, {})
        posting = values.get(value)
        if posting is None:
            posting = values[value] = Posting()
            folded = (key, value.lower())
            self._spellings[folded] = (*self._spellings.get(folded, ()), value)
        return posting

    def discard(self, key: str, value: str, row: int) -> None:
        """Say that a row has this value no longer."""
        values = self._by_value[key]
        values[value].discard(row)
        if values[value]:
            return
        del values[value]
        if not values:
            del self._by_value[key]
        folded = (key, value.lower())
        left = tuple(spelling for spelling in self._spellings[folded] if spelling != value)
        if left:
            self._spellings[folded] = left
        else:
            del self._spellings[folded]

    def equal(self, key: str, value: str) -> Bits:
        """Return the rows whose value is this one, whatever its case."""
        bits = 0
        for spelling in self._spellings.get((key, value.lower()), ()):
            bits |= self._by_value[key][spelling].bits
        return bits

    def values(self, key: str) -> Mapping[str, Posting]:
        """Return all values under a key, each with its rows."""
        return self._by_value.get(key, _NOTHING)

    def entries(self) -> Iterable[tuple[str, str, Bits]]:
        """Yield everything that is known, for checks."""
        for key, values in self._by_value.items():
            for value, posting in values.items():
                yield key, value, posting.bits


class Addresses:
    """Rows by the address of their node. Addresses are read when a constraint first asks for one."""

    __slots__ = ("_answers", "_sorted", "_unread")

    def __init__(self) -> None:
        self._sorted: list[tuple[int, int, int]] = []
        """(version, address as a number, row)."""
        self._unread: set[tuple[str, int]] = set()
        self._answers: dict[str, Bits] = {}
        """Until an address changes."""

    def add(self, address: str, row: int) -> None:
        """Take a row in; a text that is no address leaves it without one."""
        self._unread.add((address, row))
        self._answers.clear()

    def discard(self, address: str, row: int) -> None:
        """Take a row out."""
        self._answers.clear()
        if (address, row) in self._unread:
            self._unread.remove((address, row))
            return
        entry = _entry(address, row)
        if entry is not None:
            del self._sorted[bisect_left(self._sorted, entry)]

    def inside(self, text: str) -> Bits | None:
        """Return the rows whose address is this one, or lies in this network; None when the text is neither."""
        known = self._answers.get(text)
        if known is not None:
            return known
        network = _network(text)
        if network is None:
            return None
        self._read()
        first = (network.version, int(network.network_address), -1)
        last = (network.version, int(network.broadcast_address) + 1, -1)
        found = self._sorted[bisect_left(self._sorted, first) : bisect_left(self._sorted, last)]
        self._answers[text] = bits = bits_of(row for _, _, row in found)
        return bits

    def _read(self) -> None:
        """Sort in what was added since the last question."""
        if self._unread:
            self._sorted += [entry for unread in self._unread if (entry := _entry(*unread)) is not None]
            self._sorted.sort()
            self._unread.clear()


def _entry(address: str, row: int) -> tuple[int, int, int] | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return parsed.version, int(parsed), row


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
