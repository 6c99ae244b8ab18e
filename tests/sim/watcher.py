"""A user who watches every change, now at this manager and now at that one, and writes down what it was told.

Judged by ``checkers/watches``: from where it began it must have been told everything, once, in order.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.kit.errors import FailedPrecondition, SwarmError
from services.kit.messages import control

if TYPE_CHECKING:
    from tests.sim.workload import Workload

Told = tuple[str, str]
"""Action and table of one event."""
PATIENCE_S = 6.0
"""How long it stays with one manager."""
AGAIN_S = 0.4


@dataclass(slots=True)
class Stretch:
    """What was seen without having to begin anew."""

    begin: int
    last: int
    seen: list[tuple[int, tuple[Told, ...]]] = field(default_factory=list)


class Watcher:
    """See the module."""

    def __init__(self, workload: Workload) -> None:
        self.stretches: list[Stretch] = []
        self._workload = workload
        self._rng = random.Random(f"{workload.world.seed}/watcher")

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            line = self._workload.line(self._rng.choice(self._workload.world.managers))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    last = self.stretches[-1].last if self.stretches else 0
                    async with line.stream(control.WATCH, control.WatchObjects(version=last)) as items:
                        async for item in items:
                            self._take(item, last)
            except TimeoutError:
                continue
            except FailedPrecondition:
                # This manager does not remember so far back, or is behind: begin anew, with nothing missed in between.
                self.stretches.append(Stretch(0, 0))
            except SwarmError as error:
                self._workload.world.trace.note("watcher", f"{type(error).__name__}: {error}")
            finally:
                await line.close()
            await asyncio.sleep(AGAIN_S)

    def _take(self, item: control.ObjectEvents, asked: int) -> None:
        if not self.stretches or (not asked and not self.stretches[-1].begin):
            self.stretches[-1:] = [Stretch(item.version, item.version)]
        if item.events:
            stretch = self.stretches[-1]
            stretch.seen.append((item.version, tuple((event.action, event.table) for event in item.events)))
            stretch.last = item.version
