"""kill -9 of what keeps a node's tasks, under 200 of them: nothing is lost, nothing runs twice, every end is told as it was."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.model.objects import Task
from services.kit.model.specs import Annotations, ContainerSpec, Replicated, RestartPolicy, ServiceSpec, TaskSpec
from services.kit.model.states import RestartCondition, TaskState
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.timeout(300)]

TASKS = 200
SETTLE_S = 90.0
SCRIPT = (
    'echo $$ >> "$PLACE/$SWARMBUS_TASK_ID"; '
    'code=$((SLOT % 100 + 1)); trap "exit $code" TERM; '
    # A shell hears a signal between two commands, and at once while it waits.
    "sleep 1000000 & wait"
)


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with Swarm(tmp_path) as swarm:
        yield swarm


class Flock:
    """200 tasks of one service on one node, and the note that each left when it was started."""

    def __init__(self, node: SwarmNode, place: Path) -> None:
        self.node = node
        self._place = place
        place.mkdir()
        spec = ServiceSpec(
            annotations=Annotations(name="flock"),
            mode=Replicated(replicas=TASKS),
            task=TaskSpec(
                driver="process",
                restart=RestartPolicy(condition=RestartCondition.NONE),
                container=ContainerSpec(
                    command=("/bin/sh", "-c", SCRIPT), env=(f"PLACE={place}", "SLOT={{.Task.Slot}}")
                ),
            ),
        )
        with node.client() as client:
            client.services.create(spec)
        self.wait_running()
        self.pids = self.started()

    def tasks(self) -> list[Task]:
        """Return the tasks as the swarm sees them; none while it cannot say."""
        try:
            with self.node.client() as client:
                return list(client.services.tasks("flock"))
        except SwarmError:
            return []

    def states(self) -> Counter[TaskState]:
        """Count them by state."""
        return Counter(task.status.state for task in self.tasks())

    def wait_running(self) -> None:
        """Wait until all run and have written their notes."""
        wait_until(lambda: self.states() == {TaskState.RUNNING: TASKS}, "all tasks run", SETTLE_S)
        wait_until(lambda: len(self.started()) == TASKS, "all tasks have begun", SETTLE_S)

    def started(self) -> dict[str, list[int]]:
        """Return which process began for each task, and which again."""
        return {note.name: [int(pid) for pid in note.read_text().split()] for note in self._place.iterdir()}

    def end_some(self, slots: range) -> dict[int, int]:
        """Have the tasks of some slots end, each with a code of its own; returns what to expect."""
        ended = [task for task in self.tasks() if task.slot in slots]
        for task in ended:
            os.kill(self.pids[task.id][0], signal.SIGTERM)
        return {task.slot: task.slot % 100 + 1 for task in ended}

    def codes(self) -> dict[int, int | None]:
        """Return the exit codes of the tasks that have ended, by slot."""
        return {task.slot: task.status.exit_code for task in self.tasks() if task.status.state.terminal}


def test_tasks_outlive_everything_that_keeps_them(swarm: Swarm, tmp_path: Path) -> None:
    node = swarm.start("n1")
    flock = Flock(node, tmp_path / "notes")
    expected: dict[int, int] = {}

    def settle(what: str) -> None:
        wait_until(lambda: flock.codes() == expected, f"the ends are told after {what}", SETTLE_S)
        wait_until(
            lambda: flock.states()[TaskState.RUNNING] == TASKS - len(expected), f"the rest runs after {what}", SETTLE_S
        )
        assert flock.started() == flock.pids, f"a task was started again after {what}"

    agent = node.kill_process("agent")
    expected |= flock.end_some(range(1, 21))
    wait_until(lambda: node.status().pid_of("agent") not in {0, agent}, "there is another agent")
    settle("a kill of the agent")

    os.kill(taskd_of(node), signal.SIGKILL)
    expected |= flock.end_some(range(21, 41))
    settle("a kill of taskd")

    node.kill_process("agent")
    os.kill(taskd_of(node), signal.SIGKILL)
    settle("a kill of both")

    node.kill_process("supervisor")
    expected |= flock.end_some(range(41, 61))
    node.start()
    settle("a kill of the supervisor")
    alive = {pid for task, (pid,) in flock.pids.items() if Path(f"/proc/{pid}").exists()}
    assert len(alive) >= TASKS - len(expected)


def taskd_of(node: SwarmNode) -> int:
    """Return the pid of the node's taskd."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"--tasks-dir={node.state_dir}/worker/tasks".encode() in words:
                return int(entry.name)
    raise AssertionError("the node has no taskd")
