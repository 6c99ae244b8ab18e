"""What the scheduler keeps between passes. All of it can be made anew from the store at any moment."""

from __future__ import annotations

from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group, GroupKey
from services.dispatcher.core.fleet.ledger import Ledger
from services.dispatcher.core.fleet.queue import Queue
from services.dispatcher.core.picture import Picture
from services.dispatcher.core.scheduling.demand import group_of
from services.dispatcher.core.scheduling.evictions import Evictions
from services.dispatcher.core.scheduling.telling import Telling
from services.dispatcher.core.scheduling.waiting import Waiting
from services.kit.model.ids import TaskId
from services.kit.model.objects import Task


class Kept:
    """The index of the fleet, who holds what, and who waits for what."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ledger = Ledger(self.fleet)
        self.queue = Queue(self.fleet)
        self.waiting = Waiting()
        self.telling = Telling()
        self.evictions = Evictions()
        self.groups: dict[GroupKey, Group] = {}
        self.made_now: set[GroupKey] = set()
        """Groups with tasks that were made in this pass."""
        self.placed: dict[TaskId, Task] = {}
        """Tasks as the last pass has placed them, until the desk shows them so."""

    def group(self, view: Picture, key: GroupKey) -> Group | None:
        """Return a group, read from its spec version the first time; None when that is gone."""
        group = self.groups.get(key)
        if group is None:
            spec = view.spec(*key)
            if spec is None:
                return None
            group = self.groups[key] = group_of(spec, view.networks)
        return group
