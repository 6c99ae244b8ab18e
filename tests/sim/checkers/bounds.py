"""Every queue stays within its bound."""

from __future__ import annotations

from typing import cast

from services.agent.shell.app import AgentApp
from services.raft.core.queue import IN_FLIGHT_MAX
from services.raft.shell.member import Member
from tests.sim.node import SimNode
from tests.sim.promise import Checker
from tests.sim.world import World

TASKS_MAX = 400
"""Of one process: far more than its conversations need in a swarm of this size."""
INBOX_MAX = 1000


class Bounds(Checker):
    """Measures what could grow."""

    promise = "every queue stays within its bound"

    def turned(self, node: SimNode, member: Member) -> None:
        """Measure a member."""
        if member.leads and member.log.entries.last - member.commit_index > 4 * IN_FLIGHT_MAX:
            raise self.broken(f"{node.name} has {member.log.entries.last - member.commit_index} entries in flight")

    def ticked(self, world: World) -> None:
        """Measure every process."""
        for node in world.nodes.values():
            for process in node.processes.values():
                if process.dead:
                    continue
                if len(process.tasks) > TASKS_MAX:
                    raise self.broken(f"{process} has {len(process.tasks)} tasks")
                for connection in process.bus._connections:
                    if connection._outbox_bytes > connection.limits.outbox_bytes_max:
                        raise self.broken(
                            f"{process} holds {connection._outbox_bytes} bytes for {connection.peer.node_id}"
                        )
            app = cast("AgentApp | None", node.app("agent"))
            if app is not None and app._session._inbox.qsize() > INBOX_MAX:
                raise self.broken(f"{node.name}'s session has {app._session._inbox.qsize()} events in line")
