"""Secrets are only where a task needs them: a node is given those of its own tasks, and takes them from memory with the last one."""

from __future__ import annotations

from typing import cast

from services.agent.shell.app import AgentApp
from services.kit.model.ids import NodeId
from services.kit.model.objects import Task
from services.kit.model.states import TaskState
from services.kit.state.state import State
from tests.sim.checkers.routes import QUIET_S
from tests.sim.node import SimNode
from tests.sim.promise import Checker
from tests.sim.reference import Commit
from tests.sim.world import World

TICKS_MAX = 12
"""For so long a node may keep in quiet times what its tasks do not need any more: the way to it takes a moment."""


class Secrets(Checker):
    """Knows which secrets each node ever needed, and looks at what the agents hold."""

    promise = "secrets are only where a task needs them"

    def __init__(self) -> None:
        self._ever: dict[NodeId, set[str]] = {}
        self._needless: dict[tuple[str, str], int] = {}

    def committed(self, commit: Commit) -> None:
        """Note what a placed task needs."""
        for event in commit.events:
            task = event.new
            if isinstance(task, Task) and task.node_id is not None:
                self._ever.setdefault(task.node_id, set()).update(needed(commit.state, task))

    def ticked(self, world: World) -> None:
        """Look at every agent."""
        quiet = not world.faulty and world.quiet_since is not None and world.loop.time() - world.quiet_since > QUIET_S
        for node in [node for node in world.nodes.values() if not node.removed]:
            for secret_id in sorted(held(node)):
                if secret_id not in self._ever.get(node.node_id, ()):
                    raise self.broken(f"{node.name} holds secret {secret_id}, which no task of it ever needed")
                if quiet and node.node_id in world.reference.state.nodes:
                    self._count(world, node, secret_id)

    def _count(self, world: World, node: SimNode, secret_id: str) -> None:
        state = world.reference.state
        tasks = state.tasks_of_node(node.node_id).values()
        is_needed = any(secret_id in needed(state, task) for task in tasks if task.desired_state <= TaskState.COMPLETE)
        ticks = 0 if is_needed else self._needless.get((node.name, secret_id), 0) + 1
        self._needless[node.name, secret_id] = ticks
        if ticks > TICKS_MAX:
            raise self.broken(f"{node.name} still holds secret {secret_id}, which no task of it needs any more")


def needed(state: State, task: Task) -> set[str]:
    """Return the secrets that a task that has not ended needs."""
    spec = state.spec(task.service_id, task.spec_version)
    if spec is None or task.status.state.terminal:
        return set()
    return {reference.secret_id for reference in spec.task.container.secrets}


def held(node: SimNode) -> set[str]:
    """Return the secrets that a node's agent has in memory."""
    app = cast("AgentApp | None", node.app("agent"))
    return set() if app is None else set(app.tasks._worker._secrets)
