"""A removed or demoted node does nothing after its time: it does not lead, reports nothing, and in quiet times runs nothing."""

from __future__ import annotations

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node, Task
from services.kit.model.states import TaskState
from services.raft.shell.member import Member
from tests.sim.checkers.placement import running_tasks
from tests.sim.node import SimNode
from tests.sim.promise import Checker
from tests.sim.reference import Commit
from tests.sim.world import World

REPORTS_WITHIN_S = 8.0
"""A report that was taken in before the removal may be stored after it."""
STOPS_WITHIN_S = 40.0
"""In quiet times: the swarm's next word to a removed node, and the end of its tasks."""


class Gone(Checker):
    """Remembers who was removed, and when."""

    promise = "a removed or demoted node does nothing after its time"

    def __init__(self) -> None:
        self._removed: dict[NodeId, float] = {}

    def turned(self, node: SimNode, member: Member) -> None:
        """A member that was expelled leads no later term."""
        term = node.world.reference.expelled.get(node.node_id)
        if term is not None and member.leads and member.term > term:
            raise self.broken(f"{node.name} leads in term {member.term} and was expelled in term {term}")

    def committed(self, commit: Commit) -> None:
        """Look for reports of nodes that are no more."""
        for event in commit.events:
            if isinstance(event.old, Node) and event.new is None:
                self._removed[event.old.id] = commit.at
            if not isinstance(event.old, Task) or not isinstance(event.new, Task) or event.new.node_id is None:
                continue
            gone_at = self._removed.get(event.new.node_id)
            moved = event.new.status.state is not event.old.status.state
            is_late = gone_at is not None and commit.at > gone_at + REPORTS_WITHIN_S
            if is_late and moved and event.new.status.state is not TaskState.ORPHANED:
                raise self.broken(
                    f"task {event.new.id} came to {event.new.status.state.name} on node {event.new.node_id}, which was removed"
                )

    def ticked(self, world: World) -> None:
        """In quiet times a node that was removed some time ago has stopped."""
        if world.faulty or world.quiet_since is None:
            return
        now = world.loop.time()
        for node in world.nodes.values():
            gone_at = self._removed.get(node.node_id)
            if gone_at is None or now - max(gone_at, world.quiet_since) < STOPS_WITHIN_S:
                continue
            if not node.removed or running_tasks(node):
                raise self.broken(f"{node.name} was removed and still runs")
