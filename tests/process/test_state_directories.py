"""What a node makes of its state directory: half-written identities, a lost store, a forced new cluster, another address."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.messages.control import Filters
from services.kit.model.states import NodeState, TaskState
from tests.support.ports import free_remote_api
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(150)]
TASK = ("service", "create", "--name", "sleeper", "--driver", "process", "--", "sleep", "100000")


@pytest.fixture
def swarm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    failed = request.session.testsfailed
    with Swarm(tmp_path) as swarm:
        yield swarm
        if request.session.testsfailed > failed:
            sys.stderr.write("\n".join(node.log_end() for node in swarm.nodes.values()) + "\n")


def files(node: SwarmNode) -> dict[str, bytes]:
    """Return what lies in a stopped node's directory, but for sockets and locks."""
    ephemeral = {".lock", ".children"}
    kept = (path for path in node.state_dir.rglob("*") if path.is_file() and path.name not in ephemeral)
    return {str(path.relative_to(node.state_dir)): path.read_bytes() for path in kept}


def refusal(node: SwarmNode, *options: str) -> tuple[int, str]:
    """Start a node that does not start; returns its code and its one message. Nothing on its disk changes."""
    before = files(node)
    node.start(*options, wait=False)
    code = node.wait_end()
    lines = [line for line in node.lines if line.startswith("supervisor:")]
    assert len(lines) == 1, node.log_end()
    assert files(node) == before
    return code, lines[0]


def ready(node: SwarmNode) -> set[str]:
    try:
        with node.client() as client:
            return {n.description.hostname for n in client.nodes.list() if n.status.state is NodeState.READY}
    except SwarmError:
        return set()


def test_a_half_written_identity_is_finished_or_refused_and_never_replaced(swarm: Swarm) -> None:
    node = swarm.start("n1")
    node_id = node.status().node_id
    node.stop()
    certificates = node.state_dir / "certificates"
    (certificates / "swarm-node.crt").rename(certificates / ".swarm-node.crt")
    node.start()
    assert node.status().node_id == node_id, "the swap that was cut short was finished"
    assert (certificates / "swarm-node.crt").exists()
    node.stop()

    for name, word in (("swarm-node.key", "swarm-node.key"), ("swarm-root-ca.crt", "swarm-root-ca.crt")):
        kept = (certificates / name).read_bytes()
        (certificates / name).unlink()
        code, said = refusal(node)
        assert code == ExitCode.LOCKED
        assert word in said
        (certificates / name).write_bytes(kept)
    (certificates / "swarm-node.crt").write_text("half a certifica")
    code, said = refusal(node)
    assert code == ExitCode.STORE_DAMAGED
    assert "certificate" in said


def test_the_only_manager_without_its_store_does_not_make_an_empty_cluster(swarm: Swarm) -> None:
    node = swarm.start("n1")
    node.stop()
    kept = node.state_dir / "kept"
    shutil.move(node.state_dir / "raft", kept)
    (node.state_dir / "raft").mkdir(mode=0o700)
    code, said = refusal(node)
    assert code == ExitCode.STORE_DAMAGED
    assert "raft/ is empty" in said
    shutil.rmtree(node.state_dir / "raft", ignore_errors=True)
    shutil.move(kept, node.state_dir / "raft")
    node.start()


def test_a_damaged_state_json_is_refused_with_what_to_do(swarm: Swarm) -> None:
    node = swarm.start("n1")
    node.stop()
    (node.state_dir / "state.json").write_text("{")
    code, said = refusal(node)
    assert code == ExitCode.STORE_DAMAGED
    assert "state.json is damaged" in said


def test_a_new_cluster_is_forced_from_one_manager_with_services_and_tasks(swarm: Swarm) -> None:
    first = swarm.start("n1")
    second, third = swarm.join("n2", role="manager"), swarm.join("n3", role="manager")
    first.swarmctl(*TASK)
    for node in (first, third, second):
        node.kill()
    second.start("--force-new-cluster")
    assert swarm.leader() is second
    assert "sleeper" in second.swarmctl("service", "ls")

    def runs_here() -> bool:
        with second.client() as client:
            service = client.services.get("sleeper")
            tasks = client.tasks.list(Filters(service_ids=(service.id,)))
            return any(task.status.state is TaskState.RUNNING for task in tasks)

    wait_until(lambda: ready(second) == {"n2"}, "it is alone", 30)
    wait_until(runs_here, "the task runs on the node that is left", 40)
    second.stop()
    second.start()
    assert swarm.leader() is second
    swarm.join("n4", role="manager", via=second)
    wait_until(lambda: second.swarmctl("node", "ls").count("Reachable") == 1, "another manager joined the new cluster")


def test_nodes_whose_addresses_changed_are_found_again(swarm: Swarm) -> None:
    nodes = [swarm.start("n1"), swarm.join("n2", role="manager"), swarm.join("n3", role="manager"), swarm.join("n4")]
    names = {node.name for node in nodes}
    ids = [node.status().node_id for node in nodes]
    for node in nodes:
        node.stop()
        node.remote_api = free_remote_api()
        node.start()
        wait_until(lambda: ready(nodes[0]) == names, f"{node.name} is found at its new address", 40)
    assert [node.status().node_id for node in nodes] == ids
    with nodes[0].client() as client:
        seen = {node.description.hostname: node.manager_status for node in client.nodes.list()}
    for node in nodes[:3]:
        status = seen[node.name]
        assert status is not None
        assert status.raft_addr.rpartition(":")[2] == str(int(node.remote_api.rpartition(":")[2]) + 2)
