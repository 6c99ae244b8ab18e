"""Another root for a swarm that runs: fresh or somebody's own, aborted, begun again, with nodes down meanwhile; no live node notices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from services.kit.bus.identity import load_identity
from services.kit.errors import SwarmError
from services.kit.model.objects import RootCa
from services.kit.model.states import NodeState
from services.kit.model.tokens import parse_token, root_digest
from tests.support.pki import Authority
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]
ROTATED_S = 60.0


@pytest.fixture
def swarm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    failed = request.session.testsfailed
    with Swarm(tmp_path) as swarm:
        yield swarm
        if request.session.testsfailed > failed:
            sys.stderr.write("\n".join(node.log_end() for node in swarm.nodes.values()) + "\n")


def root_of(node: SwarmNode) -> RootCa:
    with node.client() as client:
        return client.clusters.get().root_ca


def is_rotated(node: SwarmNode, old: bytes) -> bool:
    try:
        root = root_of(node)
    except SwarmError:
        return False
    return root.rotation is None and root.ca_cert != old


def ready(node: SwarmNode) -> set[str]:
    try:
        with node.client() as client:
            return {n.description.hostname for n in client.nodes.list() if n.status.state is NodeState.READY}
    except SwarmError:
        return set()


def roots_on_disk(node: SwarmNode) -> bytes:
    return (node.state_dir / "certificates" / "swarm-root-ca.crt").read_bytes()


def all_follow(nodes: list[SwarmNode], root: bytes) -> bool:
    """Tell whether these nodes trust this root alone and have a certificate that it signed itself."""
    return all(roots_on_disk(node) == root and load_identity(node.state_dir / "certificates").issuer for node in nodes)


def sessions(nodes: list[SwarmNode]) -> list[int]:
    return [sum("session registered" in line for line in node.lines) for node in nodes]


def lost(nodes: list[SwarmNode]) -> list[str]:
    return [line for node in nodes for line in node.lines if "session lost" in line or "raft peer lost" in line]


def files_of(authority: Authority, directory: Path) -> tuple[str, str]:
    """Write a root and its key where a user has them."""
    certificate, key = directory / "root.crt", directory / "root.key"
    certificate.write_bytes(authority.pem)
    key.write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(certificate), str(key)


def test_a_live_swarm_goes_over_to_fresh_roots_and_to_somebodys_own_and_no_session_is_lost(
    swarm: Swarm, tmp_path: Path
) -> None:
    first = swarm.start("n1")
    nodes = [first, swarm.join("n2", role="manager"), swarm.join("n3")]
    names = {node.name for node in nodes}
    wait_until(lambda: ready(first) == names, "all are ready")
    wait_until(lambda: "Reachable" in first.swarmctl("node", "ls"), "two managers vote")
    before, tokens = sessions(nodes), root_of(first).join_tokens
    losses = lost(nodes)
    own = Authority("our own root")
    for certificate, key in (("", ""), ("", ""), files_of(own, tmp_path)):
        old = root_of(first).ca_cert
        words = ("--ca-cert", certificate, "--ca-key", key) if certificate else ()
        first.swarmctl("cluster", "rotate-ca", *words)
        wait_until(lambda old=old: is_rotated(first, old), "the root is rotated", ROTATED_S)  # type: ignore[misc]
        fresh = root_of(first)
        wait_until(lambda root=fresh.ca_cert: all_follow(nodes, root), "every node trusts the new root", 20)  # type: ignore[misc]
        assert fresh.digest == root_digest(fresh.ca_cert) == parse_token(fresh.join_tokens.worker).digest
        assert fresh.join_tokens.worker != tokens.worker
    assert root_of(first).ca_cert == own.pem
    assert ready(first) == names
    assert sessions(nodes) == before
    assert lost(nodes) == losses
    late = swarm.join("n4", via=first)
    wait_until(lambda: "n4" in ready(first), "a node joins under the new root")
    for node in (*nodes, late):
        node.stop()
    for node in (*nodes, late):
        node.start(wait=False)
    wait_until(lambda: ready(first) == {*names, "n4"}, "all come back after a restart of everything", 40)


def test_a_rotation_waits_for_nodes_that_are_down_can_be_aborted_and_begins_again(swarm: Swarm) -> None:
    first = swarm.start("n1")
    nodes = [first, swarm.join("n2", role="manager"), swarm.join("n3"), swarm.join("n4")]
    _, second, third, away = nodes
    names = {node.name for node in nodes}
    wait_until(lambda: ready(first) == names, "all are ready")
    away.stop()
    old = root_of(first).ca_cert
    leaf = load_identity(third.state_dir / "certificates").issuer
    first.swarmctl("cluster", "rotate-ca")
    wait_until(lambda: root_of(first).rotation is not None, "it has begun")
    assert "on the way to" in first.swarmctl("cluster", "inspect")
    wait_until(
        lambda: (
            len({load_identity(node.state_dir / "certificates").issuer for node in (first, second, third)}) == 1
            and load_identity(third.state_dir / "certificates").issuer != leaf
        ),
        "those who run have renewed",
        30,
    )
    assert root_of(first).ca_cert == old, "one is missing"

    first.swarmctl("cluster", "rotate-ca", "--abort")
    wait_until(lambda: root_of(first).rotation is None, "it is aborted")
    assert root_of(first).ca_cert == old
    first.swarmctl("cluster", "rotate-ca")
    wait_until(lambda: root_of(first).rotation is not None, "another one has begun")
    begun = root_of(first).rotation
    first.swarmctl("cluster", "rotate-ca")
    wait_until(lambda: root_of(first).rotation not in {None, begun}, "a third one takes its place")
    leader = swarm.leader()
    leader.swarmctl("node", "demote", leader.name)
    other = second if leader is first else first
    wait_until(lambda: swarm.leader() is other, "another manager leads")

    away.start()
    wait_until(lambda: is_rotated(other, old), "it ends when the last node is back", ROTATED_S)
    root = root_of(other).ca_cert
    wait_until(lambda: all_follow(nodes, root), "every node trusts the new root", 20)
    assert ready(other) == names


def test_a_node_that_was_away_when_the_root_changed_takes_the_new_one_when_it_is_back(swarm: Swarm) -> None:
    first = swarm.start("n1")
    away = swarm.join("n2")
    wait_until(lambda: ready(first) == {"n1", "n2"}, "both are ready")
    old_roots = roots_on_disk(away)
    first.swarmctl("cluster", "rotate-ca")
    old = old_roots
    wait_until(lambda: is_rotated(first, old), "the root is rotated", ROTATED_S)
    wait_until(lambda: all_follow([first, away], root_of(first).ca_cert), "both trust it", 20)
    away.stop()
    # As if it had been cut off between its confirmation and the end of the rotation.
    (away.state_dir / "certificates" / "swarm-root-ca.crt").write_bytes(old_roots)
    away.start()
    wait_until(lambda: ready(first) == {"n1", "n2"}, "it is back")
    wait_until(lambda: roots_on_disk(away) == root_of(first).ca_cert, "it trusts the new root")
