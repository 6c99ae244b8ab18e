"""Sets of rows as whole numbers: bit r is set when row r is in the set.

Everything the fleet knows of its rows is kept in this form, so that a filter is one ``&`` over all nodes and a count of rejections one
``bit_count``. Used by every module of this package.
"""

from __future__ import annotations

from collections.abc import Iterable

Bits = int
"""A set of rows."""
ALL: Bits = -1
"""Every row there can be; neutral under ``&``."""
_FEW = 12
_OFFSETS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def rows_of(bits: Bits) -> list[int]:
    """Return the rows of a set, ascending."""
    if bits.bit_count() > _FEW:
        octets = bits.to_bytes((bits.bit_length() + 7) >> 3, "little")
        return [8 * index + offset for index, octet in enumerate(octets) if octet for offset in _OFFSETS[octet]]
    rows = []
    while bits:
        row = bits.bit_length() - 1
        rows.append(row)
        bits ^= 1 << row
    rows.reverse()
    return rows


def bits_of(rows: Iterable[int]) -> Bits:
    """Return the set of some rows."""
    rows = list(rows)
    if len(rows) > 2 * _FEW:
        octets = bytearray((max(rows) >> 3) + 1)
        for row in rows:
            octets[row >> 3] |= 1 << (row & 7)
        return int.from_bytes(octets, "little")
    bits = 0
    for row in rows:
        bits |= 1 << row
    return bits


def highest(bits: Bits, count: int) -> Bits:
    """Return the ``count`` highest rows of a set that has at least as many."""
    shift, window = 0, bits
    width = count
    while (at := bits.bit_length() - width) > 0:
        upper = bits >> at
        if upper.bit_count() >= count:
            shift, window = at, upper
            break
        width += (width >> 1) + 64
    return _without_lowest(window, window.bit_count() - count) << shift


def _without_lowest(bits: Bits, surplus: int) -> Bits:
    """Return the set without its ``surplus`` lowest rows."""
    while surplus > 16:
        half = bits.bit_length() >> 1
        low = bits & ((1 << half) - 1)
        while low.bit_count() > surplus:
            half >>= 1
            low = bits & ((1 << half) - 1)
        if not low:
            break
        bits ^= low
        surplus -= low.bit_count()
    for _ in range(surplus):
        bits &= bits - 1
    return bits
