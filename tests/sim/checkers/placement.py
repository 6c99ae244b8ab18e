"""No task runs on two nodes, and none where it was not placed."""

from __future__ import annotations

from typing import cast

from services.agent.drivers.fake import FakeDriver
from services.agent.shell.app import AgentApp
from services.kit.model.ids import TaskId
from tests.sim.node import SimNode
from tests.sim.promise import Checker
from tests.sim.world import World


class Placement(Checker):
    """Asks every driver what it runs."""

    promise = "no task runs on two nodes"

    def ticked(self, world: World) -> None:
        """Look at all nodes."""
        where: dict[TaskId, str] = {}
        for node in world.nodes.values():
            for task_id in running_tasks(node):
                if task_id in where:
                    raise self.broken(f"task {task_id} runs on {where[task_id]} and {node.name}")
                where[task_id] = node.name
                task = world.reference.state.tasks.get(task_id)
                if task is not None and task.node_id != node.node_id:
                    raise self.broken(f"task {task_id} of node {task.node_id} runs on {node.name} ({node.node_id})")


def running_tasks(node: SimNode) -> set[TaskId]:
    """Return what a node's driver runs at this moment, whoever wants it; nothing while its agent does not run."""
    app = cast("AgentApp | None", node.app("agent"))
    if app is None:
        return set()
    driver = app._drivers.find("fake")
    assert isinstance(driver, FakeDriver)
    ledger = driver._open()
    now = node.clock.wall()
    return {
        task_id
        for task_id, record in sorted(ledger.records.items())
        if record.phase.value == "started" and not 0 < record.ends_at <= now
    }
