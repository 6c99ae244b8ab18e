"""Read, change, write: the loop that every update of an object goes through.

The write carries the version that was read, so it takes effect at most once. A conflict means somebody else wrote in between: the
change is made again on what is there now. After an unknown outcome the object is read again: when it holds what was written, it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.kit.errors import Conflict, Unavailable

ThingT = TypeVar("ThingT")
SpecT = TypeVar("SpecT")

CONFLICTS_MAX = 10
"""Writes that may meet a conflict before the last conflict is raised."""


async def write_changed(
    read: Callable[[], Awaitable[ThingT]],
    spec_of: Callable[[ThingT], SpecT],
    change: Callable[[SpecT], SpecT],
    send: Callable[[ThingT, SpecT], Awaitable[ThingT]],
) -> ThingT:
    """Return the object as the changed spec left it; raises Conflict, or what reading and writing raise."""
    unsure: SpecT | None = None
    for attempt in range(CONFLICTS_MAX):
        thing = await read()
        if unsure is not None and spec_of(thing) == unsure:
            return thing
        spec = change(spec_of(thing))
        try:
            return await send(thing, spec)
        except Conflict:
            if attempt == CONFLICTS_MAX - 1:
                raise
        except Unavailable as error:
            if not error.details.maybe_executed or attempt == CONFLICTS_MAX - 1:
                raise
            unsure = spec
    raise AssertionError("the last attempt returns or raises")
