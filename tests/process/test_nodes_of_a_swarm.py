"""Real nodes on loopback: a first node, joining managers and workers, restarts, killed processes and killed managers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.model.states import NodeState, Role
from tests.support.swarm import Swarm, SwarmNode, processes_of, run_supervisor, wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with Swarm(tmp_path) as swarm:
        yield swarm


def ready_nodes(node: SwarmNode) -> dict[str, Role]:
    """Return the nodes that are READY in the eyes of this one, by hostname; none while it cannot say."""
    try:
        with node.client() as client:
            return {
                each.description.hostname: each.role
                for each in client.nodes.list()
                if each.status.state is NodeState.READY
            }
    except SwarmError:
        return {}


def managers_with_a_vote(node: SwarmNode) -> set[str]:
    try:
        with node.client() as client:
            return {each.description.hostname for each in client.nodes.list() if each.manager_status is not None}
    except SwarmError:
        return set()


def test_a_first_node_makes_a_cluster_of_itself_and_shows_its_tokens(swarm: Swarm) -> None:
    first = swarm.start("n1")
    assert ready_nodes(first) == {"n1": Role.MANAGER}
    assert swarm.token("worker").startswith("SWMTKN-1-")
    assert swarm.token("worker") != swarm.token("manager")
    assert not (first.state_dir / "certificates" / "swarm-root-ca.key").exists()
    assert first.stop() == 0
    assert sum("node is ready" in line for line in first.lines) == 1
    assert not list((first.state_dir / "run").glob("*.sock"))


def test_nodes_join_with_the_role_of_their_token(swarm: Swarm) -> None:
    first = swarm.start("n1")
    second = swarm.join("n2", role="manager")
    third = swarm.join("n3", role="worker")
    wanted = {"n1": Role.MANAGER, "n2": Role.MANAGER, "n3": Role.WORKER}
    for node in (first, second):
        wait_until(lambda node=node: ready_nodes(node) == wanted, f"{node.name} sees all nodes")  # type: ignore[misc]
    wait_until(lambda: managers_with_a_vote(first) == {"n1", "n2"}, "two managers vote")
    assert {each.process for each in third.status().processes} == {"gateway", "agent"}


def test_a_node_that_was_stopped_or_killed_is_the_same_node_again(swarm: Swarm) -> None:
    first = swarm.start("n1")
    worker = swarm.join("n2")
    ids = {node.name: node.status().node_id for node in (first, worker)}
    assert worker.stop() == 0
    worker.start()
    first.kill()
    assert processes_of(first.state_dir) == []
    first.start()
    assert {node.name: node.status().node_id for node in (first, worker)} == ids
    wait_until(lambda: ready_nodes(first).keys() == {"n1", "n2"}, "both nodes are back")


def test_the_swarm_survives_the_loss_of_its_leader(swarm: Swarm) -> None:
    swarm.start("n1")
    swarm.join("n2", role="manager")
    swarm.join("n3", role="manager")
    leader = swarm.leader()
    others = [node for node in swarm.nodes.values() if node is not leader]
    wait_until(lambda: managers_with_a_vote(leader) == {"n1", "n2", "n3"}, "three managers vote")
    leader.kill()
    assert swarm.leader() in others
    late = swarm.join("n4", via=others[0])
    wait_until(lambda: "n4" in ready_nodes(others[1]), "a node that joined later is seen")
    leader.start()
    wait_until(lambda: ready_nodes(leader).keys() == {"n1", "n2", "n3", "n4"}, "the killed leader is back")
    assert late.running


def test_down_stops_the_node_and_waits(swarm: Swarm) -> None:
    first = swarm.start("n1")
    done = run_supervisor("down", "--state-dir", str(first.state_dir))
    assert done.returncode == 0, done.stderr
    assert not first.running
    assert first.wait_end() == 0
