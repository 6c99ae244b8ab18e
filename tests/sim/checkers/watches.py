"""A watch tells every change, once and in order, whichever manager it goes on at."""

from __future__ import annotations

from tests.sim.promise import Checker
from tests.sim.reference import Commit
from tests.sim.watcher import Told
from tests.sim.world import World


class Watches(Checker):
    """Keeps the events of every transaction, and compares in the end."""

    promise = "a watch is ordered and has no gaps"

    def __init__(self) -> None:
        self._events: list[tuple[int, tuple[Told, ...]]] = []

    def committed(self, commit: Commit) -> None:
        """Keep what a watcher has to be told."""
        if commit.events:
            self._events.append((commit.version, tuple((event.action, event.table.value) for event in commit.events)))

    def healed(self, world: World) -> None:
        """Compare what was told with what happened."""
        for stretch in [stretch for watcher in world.watchers for stretch in watcher.stretches]:
            happened = [told for told in self._events if stretch.begin < told[0] <= stretch.last]
            for told, seen in zip(happened, stretch.seen, strict=False):
                if told != seen:
                    raise self.broken(f"version {told[0]} was {told[1]}, a watcher was told {seen}")
            if len(happened) != len(stretch.seen):
                raise self.broken(
                    f"{len(happened)} changes behind {stretch.begin}, a watcher was told {len(stretch.seen)}"
                )
