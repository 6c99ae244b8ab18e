"""The route table as this gateway knows it: a full table, then numbered changes.

Fed by the ingress from ``routes.watch``, read by whoever tells the data plane. What must stay true: the book equals the table of
the dispatcher at its epoch; a change that does not follow the epoch of the book changes nothing and is reported as a gap.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.kit.messages.routes import Route, RouteTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became different."""

    epoch: int
    full: bool
    """Everything that is not in ``routes`` is gone."""
    routes: tuple[Route, ...]
    removed: tuple[str, ...]
    """Keys that are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The update does not follow: ask for a full table."""

    expected: int
    got: int


class RouteBook:
    """The newest table."""

    def __init__(self) -> None:
        self.epoch: int | None = None
        """None until the first full table."""
        self.routes: dict[str, Route] = {}
        self.revoked: frozenset[bytes] = frozenset()

    def take(self, update: RouteTable) -> Change | Gap:
        """Take an update and return what it changed."""
        if update.full:
            self.routes = {}
            self.revoked = frozenset(update.revoked)
        elif self.epoch is None or update.epoch != self.epoch + 1:
            return Gap(expected=-1 if self.epoch is None else self.epoch + 1, got=update.epoch)
        elif update.revoked:
            self.revoked = frozenset(update.revoked)
        removed = tuple(key for key in update.removed if self.routes.pop(key, None) is not None)
        self.routes.update((route.key, route) for route in update.routes)
        self.epoch = update.epoch
        return Change(epoch=update.epoch, full=update.full, routes=update.routes, removed=removed)
