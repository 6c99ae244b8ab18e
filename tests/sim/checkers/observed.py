"""Observed state never goes back; neither does what is wanted, and a task never changes its node."""

from __future__ import annotations

from services.kit.model.objects import Task
from tests.sim.promise import Checker
from tests.sim.reference import Commit


class Observed(Checker):
    """Looks at each change of a task."""

    promise = "observed state only moves forward"

    def committed(self, commit: Commit) -> None:
        """Compare each task with what it was."""
        for event in commit.events:
            if not isinstance(event.old, Task) or not isinstance(event.new, Task):
                continue
            old, new = event.old, event.new
            if new.status.state < old.status.state:
                raise self.broken(f"task {new.id} went from {old.status.state.name} to {new.status.state.name}")
            if new.desired_state < old.desired_state:
                raise self.broken(
                    f"task {new.id} was wanted {old.desired_state.name} and then {new.desired_state.name}"
                )
            if old.node_id is not None and new.node_id != old.node_id:
                raise self.broken(f"task {new.id} moved from node {old.node_id} to {new.node_id}")
