"""Certificates with a life of seconds: renewed while everything goes on, and got again by a node that was off when its own ran out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.bus.identity import load_identity
from services.kit.errors import SwarmError
from services.kit.messages.control import Filters
from services.kit.model.states import NodeState, TaskState
from services.kit.runtime.clock import SystemClock
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(150)]
LIFE_S = 8.0
CLOCK = SystemClock()


@pytest.fixture
def swarm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    failed = request.session.testsfailed
    with Swarm(tmp_path, {"SWARMBUS_CERTIFICATE_VALIDITY_MAX_S": str(LIFE_S)}) as swarm:
        yield swarm
        if request.session.testsfailed > failed:
            sys.stderr.write("\n".join(node.log_end() for node in swarm.nodes.values()) + "\n")


def ends_at(node: SwarmNode) -> float:
    return load_identity(node.state_dir / "certificates").not_after


def ready(node: SwarmNode) -> set[str]:
    try:
        with node.client() as client:
            return {n.description.hostname for n in client.nodes.list() if n.status.state is NodeState.READY}
    except SwarmError:
        return set()


def said(node: SwarmNode, *texts: str) -> list[str]:
    return [line for line in node.lines if all(text in line for text in texts)]


def test_certificates_are_renewed_in_time_and_no_session_or_raft_connection_is_lost(swarm: Swarm) -> None:
    first = swarm.start("n1")
    nodes = [first, swarm.join("n2", role="manager"), swarm.join("n3")]
    wait_until(lambda: ready(first) == {"n1", "n2", "n3"}, "all are ready")
    before = [len(said(node, "session registered")) for node in nodes]
    began = [ends_at(node) for node in nodes]
    wait_until(
        lambda: all(ends_at(node) > start + 2 * LIFE_S for node, start in zip(nodes, began, strict=True)),
        "every certificate of the beginning has run out and was replaced more than once",
        60,
    )
    assert all(ends_at(node) > CLOCK.wall() for node in nodes)
    assert ready(first) == {"n1", "n2", "n3"}
    assert [len(said(node, "session registered")) for node in nodes] == before
    assert not [line for node in nodes for line in said(node, "raft peer lost")]
    assert first.swarmctl("node", "ls").count("Reachable") == 1


def test_nodes_that_were_off_while_their_certificates_ran_out_come_back_unattended(swarm: Swarm) -> None:
    first = swarm.start("n1")
    nodes = [first, swarm.join("n2", role="manager"), swarm.join("n3")]
    ids = [node.status().node_id for node in nodes]
    for node in reversed(nodes):
        node.stop()
    wait_until(lambda: all(ends_at(node) < CLOCK.wall() for node in nodes), "all certificates have run out", 20)
    for node in nodes:
        node.start(wait=False)
    for node in nodes:
        node.wait_ready(40)
    assert [node.status().node_id for node in nodes] == ids
    wait_until(lambda: ready(first) == {"n1", "n2", "n3"}, "the whole swarm is back")
    assert all(ends_at(node) > CLOCK.wall() for node in nodes)


def test_a_new_cluster_is_forced_although_every_certificate_has_run_out_and_services_are_kept(swarm: Swarm) -> None:
    first = swarm.start("n1")
    second, third = swarm.join("n2", role="manager"), swarm.join("n3", role="manager")
    first.swarmctl("service", "create", "--name", "sleeper", "--driver", "process", "--", "sleep", "100000")
    wait_until(lambda: "sleeper" in second.swarmctl("service", "ls"), "all managers know the service")
    for node in (first, third, second):
        node.kill()
    wait_until(lambda: all(ends_at(node) < CLOCK.wall() for node in (first, second)), "all have run out", 20)
    second.start("--force-new-cluster", wait=False)
    second.wait_ready(40)
    assert ends_at(second) > CLOCK.wall(), "it has renewed itself, from itself"
    wait_until(lambda: ready(second) == {"n2"}, "it is alone", 30)

    def runs_here() -> bool:
        with second.client() as client:
            service = client.services.get("sleeper")
            tasks = client.tasks.list(Filters(service_ids=(service.id,)))
            return any(task.status.state is TaskState.RUNNING for task in tasks)

    wait_until(runs_here, "the task runs on the node that is left", 40)
