"""The base of every noun and message: a frozen, keyword-only record that the codec can carry."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An immutable record. Fields equal to their default are left out on the wire, so new fields need defaults.

    ``gc=False`` keeps millions of them out of the collector's passes; values therefore never refer to themselves.
    """
