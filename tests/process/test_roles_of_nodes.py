"""Promotion, demotion and removal of running nodes, their tasks untouched; all with the commands that a user types.

One swarm for all tests of this file: ``n1`` to ``n4``, each test makes of them what it needs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

import pytest

from services.kit.errors import SwarmError
from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.messages.control import Filters
from services.kit.model.objects import Node
from services.kit.model.states import NodeState, Role, TaskState
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = pytest.mark.process
SLEEP = ("sleep", "100000")


class Village:
    """A swarm and what its managers say of it."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm

    def node(self, name: str) -> SwarmNode:
        return self.swarm.nodes[name]

    def ids(self) -> dict[str, str]:
        return {name: node.id for name, node in self.seen().items()}

    @property
    def boss(self) -> SwarmNode:
        """A running manager."""
        return next(node for node in self.swarm.nodes.values() if node.running and self._answers(node))

    def seen(self) -> dict[str, Node]:
        """Return the nodes by name, as the leader sees them; nothing while there is none."""
        for asked in self.swarm.nodes.values():
            if asked.running:
                try:
                    with asked.client() as client:
                        return {node.description.hostname: node for node in client.nodes.list()}
                except SwarmError:
                    continue
        return {}

    def voters(self) -> set[str]:
        return {name for name, node in self.seen().items() if node.manager_status is not None}

    def is_worker(self, name: str) -> bool:
        """Tell whether a node is one inside and out: no vote, no manager's process, no store on its disk."""
        node, seen = self.node(name), self.seen()
        if name not in seen or seen[name].role is not Role.WORKER or seen[name].manager_status is not None:
            return False
        status = node.status()
        processes = {each.process for each in status.processes if each.state != "stopped"}
        is_clean = not any((node.state_dir / "raft").iterdir())
        return status.role == "worker" and processes == {"gateway", "agent"} and is_clean

    def is_manager(self, name: str) -> bool:
        """Tell whether a node is one: it votes and its own control socket answers."""
        return name in self.voters() and self._answers(self.node(name))

    def ready(self) -> set[str]:
        return {name for name, node in self.seen().items() if node.status.state is NodeState.READY}

    def task_pids(self) -> dict[str, int]:
        with self.boss.client() as client:
            service = client.services.get("sleepers")
            return {
                task.id: task.status.pid
                for task in client.tasks.list(Filters(service_ids=(service.id,)))
                if task.status.state is TaskState.RUNNING
            }

    def make(self, *managers: str) -> None:
        """Make these the managers and all others workers."""
        seen = self.seen()
        for verb, names in (
            ("promote", [name for name in managers if seen[name].spec.desired_role is not Role.MANAGER]),
            ("demote", [name for name in seen if name not in managers and seen[name].role is not Role.WORKER]),
        ):
            for name in names:
                self.boss.swarmctl("node", verb, name)
                wait_until(lambda name=name: self._is(name, managers), f"{name} is what it shall be")  # type: ignore[misc]

    def _is(self, name: str, managers: tuple[str, ...]) -> bool:
        return self.is_manager(name) if name in managers else self.is_worker(name)

    def _answers(self, node: SwarmNode) -> bool:
        try:
            with node.client() as client:
                client.clusters.get()
        except SwarmError:
            return False
        return True


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    with Swarm(tmp_path_factory.mktemp("village")) as swarm:
        village = Village(swarm)
        first = swarm.start("n1")
        joining = [swarm.joining(name) for name in ("n2", "n3", "n4")]
        for node in joining:
            node.start(wait=False)
        for node in joining:
            node.wait_ready()
        first.swarmctl(
            "service", "create", "--name", "sleepers", "--mode", "global", "--driver", "process", "--", *SLEEP
        )
        wait_until(lambda: len(village.task_pids()) == 4, "each node has a task")
        yield village


@pytest.fixture(autouse=True)
def unharmed(village: Village, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever happens to roles, no task notices; the logs of a failed test are shown."""
    tasks, failed = village.task_pids(), request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        sys.stderr.write("\n".join(node.log_end() for node in village.swarm.nodes.values()) + "\n")
    elif not any(name in request.node.name for name in ("n5", "n6")):
        assert village.task_pids() == tasks
        for pid in tasks.values():
            os.kill(pid, 0)


def test_a_promoted_worker_votes_and_a_demoted_manager_is_a_worker_again(village: Village) -> None:
    village.boss.swarmctl("node", "promote", "n2")
    wait_until(lambda: village.is_manager("n2"), "n2 votes and answers its user")
    assert "Reachable" in village.node("n2").swarmctl("node", "ls")
    village.boss.swarmctl("node", "demote", "n2")
    wait_until(lambda: village.is_worker("n2"), "n2 is a worker, inside and out")
    said = village.node("n2").swarmctl("node", "ls", code=1)
    assert "this node is a worker" in said


def test_roles_go_back_and_forth_any_number_of_times(village: Village) -> None:
    ids = village.ids()
    for _ in range(3):
        village.make("n1", "n2")
        village.make("n1")
    assert village.ids() == ids
    assert village.voters() == {"n1"}


def test_a_leader_that_is_demoted_hands_over_and_the_swarm_goes_on(village: Village) -> None:
    village.make("n1", "n2", "n3")
    leader = village.swarm.leader()
    leader.swarmctl("node", "demote", leader.name)
    wait_until(lambda: village.is_worker(leader.name), "the leader of before is a worker")
    assert village.swarm.leader() is not leader
    assert len(village.voters()) == 2
    village.make("n1")


def test_the_only_manager_cannot_be_demoted(village: Village) -> None:
    village.make("n1")
    said = village.node("n1").swarmctl("node", "demote", "n1", code=1)
    assert "last manager" in said
    assert village.is_manager("n1")


def test_a_manager_that_is_demoted_while_it_is_down_learns_it_when_it_comes_back(village: Village) -> None:
    village.make("n1", "n2", "n3")
    victim = next(village.node(name) for name in ("n2", "n3") if village.swarm.leader().name != name)
    survivor = village.swarm.leader()
    victim.kill_process("supervisor")
    wait_until(lambda: not any("services.raft" in line for line in victim.left_behind()), "its manager half is gone")
    survivor.swarmctl("node", "demote", victim.name)
    wait_until(lambda: victim.name not in village.voters(), "it has no vote any more")
    victim.start()
    wait_until(lambda: village.is_worker(victim.name), "it is a worker")
    wait_until(lambda: victim.name in village.ready(), "it is ready")
    village.make("n1")


def test_a_demotion_that_would_cost_the_quorum_is_refused(village: Village) -> None:
    village.make("n1", "n2", "n3")
    leader = village.swarm.leader()
    down = next(village.node(name) for name in ("n1", "n2", "n3") if name != leader.name)
    other = next(name for name in ("n1", "n2", "n3") if name not in {leader.name, down.name})
    down.kill_process("supervisor")
    wait_until(lambda: "Unreachable" in leader.swarmctl("node", "ls"), "the leader knows that one does not answer")
    said = leader.swarmctl("node", "demote", other, code=1)
    assert "quorum" in said
    assert other in village.voters()
    down.start()
    wait_until(lambda: "Unreachable" not in leader.swarmctl("node", "ls"), "all answer again")
    village.make("n1")


def test_a_removed_node_n5_is_refused_at_every_door_at_once_and_says_why_it_ends(village: Village) -> None:
    village.make("n1", "n2")
    boss = village.node("n1")
    gone = village.swarm.join("n5", via=boss)
    wait_until(lambda: "n5" in village.ready(), "n5 is ready")
    assert "use force" in boss.swarmctl("node", "rm", "n5", code=1)
    assert "n5" in village.seen()
    boss.swarmctl("node", "rm", "--force", "n5")
    assert "n5" not in village.seen()
    assert gone.wait_end() == ExitCode.IDENTITY_LOST
    assert re.search(r"no longer part of the cluster|does not know this node", "\n".join(gone.lines))
    gone.start(wait=False)
    assert gone.wait_end() == ExitCode.IDENTITY_LOST, "it is refused again"
    village.make("n1")


def test_a_node_n6_that_is_down_is_removed_without_force_and_a_manager_never(village: Village) -> None:
    village.make("n1", "n2")
    boss = village.node("n1")
    assert "demote it first" in boss.swarmctl("node", "rm", "--force", "n2", code=1)
    node = village.swarm.node("n6", "--join-addr", boss.remote_api, "--join-token", village.swarm.token("worker", boss))
    node.start()
    node.stop()
    wait_until(lambda: village.seen()["n6"].status.state is NodeState.DOWN, "n6 is down")
    boss.swarmctl("node", "rm", "n6")
    assert "n6" not in village.seen()
    village.make("n1")
