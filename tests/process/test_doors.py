"""The doors of real managers, under a root that the test brought along: who is refused, and how fast a removed node is cut off.

The swarm starts with somebody's own CA in its certificates directory, so that the test can certify whom it likes with the true root.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from services.kit.bus.api import Connection, RemoteAddress
from services.kit.bus.identity import Identity, load_identity, new_key
from services.kit.bus.ports import HostPort, node_ports
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import PermissionDenied, Unauthenticated, Unimplemented
from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.messages import consensus, control
from services.kit.messages.consensus import SnapshotRequest
from services.kit.messages.method import MANAGER
from services.kit.runtime.clock import SystemClock
from tests.support.pki import Authority
from tests.support.running import run_async
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
CUT_S = 2.0


@pytest.fixture
def swarm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    failed = request.session.testsfailed
    with Swarm(tmp_path) as swarm:
        yield swarm
        if request.session.testsfailed > failed:
            sys.stderr.write("\n".join(node.log_end() for node in swarm.nodes.values()) + "\n")


def start_with(authority: Authority, swarm: Swarm, name: str) -> SwarmNode:
    """Start a first node whose user has put a root and its key into the certificates directory."""
    node = swarm.node(name)
    certificates = node.state_dir / "certificates"
    certificates.mkdir(parents=True)
    node.state_dir.chmod(0o700)
    (certificates / "swarm-root-ca.crt").write_bytes(authority.pem)
    key = certificates / "swarm-root-ca.key"
    key.write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    key.chmod(0o600)
    return node.start()


class Doors:
    """The network doors of managers, for callers with any identity."""

    def __init__(self, *managers: SwarmNode) -> None:
        self._managers = [(node, load_identity(node.state_dir / "certificates").certificate) for node in managers]
        self._buses: list[ZmqBus] = []

    def places(self) -> list[tuple[str, HostPort, bytes]]:
        """Return every door that speaks CURVE: remote API and raft port of each manager."""
        return [
            (f"{kind} of {node.name}", place, certificate)
            for node, certificate in self._managers
            for kind, place in (
                ("remote API", node_ports(node.remote_api).remote),
                ("raft port", node_ports(node.remote_api).raft),
            )
        ]

    async def dial(self, identity: Identity, place: HostPort, certificate: bytes) -> Connection:
        bus = ZmqBus(identity, clock=SystemClock())
        self._buses.append(bus)
        return await bus.dial(RemoteAddress(host=place.host, port=place.port, certificate=certificate))

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()

    async def refuses(self, identity: Identity, place: HostPort, certificate: bytes) -> bool:
        """Tell whether a door does not let somebody in."""
        try:
            await self.dial(identity, place, certificate)
        except (Unauthenticated, PermissionDenied):
            return True
        return False

    async def reads_nothing(self, identity: Identity, place: HostPort, certificate: bytes) -> bool:
        """Tell whether somebody who is let in is shown neither the cluster nor the store."""
        connection = await self.dial(identity, place, certificate)
        try:
            await connection.call(control.GET_CLUSTER, control.GetRequest(ref="default"))
        except (Unauthenticated, PermissionDenied, Unimplemented):
            try:
                async with connection.open(consensus.SNAPSHOT, SnapshotRequest()) as pieces:
                    await anext(aiter(pieces))
            except (Unauthenticated, PermissionDenied, Unimplemented):
                return True
        return False


def bearer(roots: bytes, certificate: bytes) -> Identity:
    """Return somebody who shows a certificate that belongs to another key."""
    identity = Identity.joining(roots)
    identity.certificate = certificate
    return identity


async def check_refusals(authority: Authority, cluster: str, *managers: SwarmNode) -> None:
    """See that nobody wrong comes in at any door, and nobody small reads anything."""
    manager = authority.identity("thief", MANAGER, cluster)
    wrong = {
        "a foreign cluster's manager": bearer(authority.pem, Authority().manager("f1").certificate),
        "another cluster's under the same root": authority.identity("m", MANAGER, "another"),
        "one that ran out two years ago": authority.identity("m", MANAGER, cluster, days=-730),
        "a stolen certificate": bearer(authority.pem, manager.certificate),
    }
    small = {
        "a worker": authority.worker("w", cluster),
        "a stranger": Identity.joining(authority.pem, new_key()),
    }
    doors = Doors(*managers)
    try:
        for name, place, certificate in doors.places():
            for kind, identity in wrong.items():
                assert await doors.refuses(identity, place, certificate), f"{kind} came in at the {name}"
            for kind, identity in small.items():
                assert await doors.reads_nothing(identity, place, certificate), f"{kind} read at the {name}"
    finally:
        await doors.close()


async def check_removal(removed: Identity, remove: Callable[[], object], *managers: SwarmNode) -> None:
    """See that a node that has just been removed is cut off at every door and not let in again."""
    doors = Doors(*managers)
    try:
        live = [await doors.dial(removed, place, certificate) for _, place, certificate in doors.places()]
        assert all(connection.lost is None for connection in live)
        await asyncio.to_thread(remove)
        async with asyncio.timeout(CUT_S):
            await asyncio.gather(*(connection.wait_lost() for connection in live))
        for name, place, certificate in doors.places():
            assert await doors.refuses(removed, place, certificate), f"a removed node came in at the {name}"
    finally:
        await doors.close()


def with_three_managers(swarm: Swarm, first: SwarmNode) -> tuple[SwarmNode, SwarmNode]:
    others = swarm.join("n2", role="manager"), swarm.join("n3", role="manager")
    wait_until(lambda: first.swarmctl("node", "ls").count("Reachable") == 2, "three managers vote")
    return others


def test_a_swarm_with_its_own_root_lets_nobody_wrong_in_and_cuts_off_a_removed_node_at_once(swarm: Swarm) -> None:
    authority = Authority("our own root")
    first = start_with(authority, swarm, "n1")
    certificates = first.state_dir / "certificates"
    assert (certificates / "swarm-root-ca.crt").read_bytes() == authority.pem
    assert not (certificates / "swarm-root-ca.key").exists(), "the store has it now"
    second, gone = with_three_managers(swarm, first)
    me = load_identity(gone.state_dir / "certificates")
    assert me.role == MANAGER, "the worst that can be removed: its certificate says manager"
    run_async(check_refusals(authority, me.cluster_id, first, second), timeout_s=60)
    gone.stop()
    first.swarmctl("node", "demote", "n3")
    wait_until(lambda: first.swarmctl("node", "ls").count("Reachable") == 1, "it has no vote any more")
    run_async(check_removal(me, lambda: first.swarmctl("node", "rm", "--force", "n3"), first, second), timeout_s=60)
    assert first.swarmctl("node", "ls").count("Ready") == 2


@pytest.mark.slow
def test_a_removed_manager_that_comes_back_with_its_old_certificate_ends_and_says_why(swarm: Swarm) -> None:
    first = swarm.start("n1")
    _, gone = with_three_managers(swarm, first)
    gone.stop()
    first.swarmctl("node", "demote", "n3")
    wait_until(lambda: first.swarmctl("node", "ls").count("Reachable") == 1, "it has no vote any more")
    first.swarmctl("node", "rm", "--force", "n3")
    gone.start(wait=False)
    gone.wait_log("the swarm does not know this node any more", 60)
    assert gone.wait_end() == ExitCode.IDENTITY_LOST
