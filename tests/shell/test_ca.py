"""The ca over an in-memory bus: bootstrap, founding, joining with tokens, renewal; what it refuses, and what the store then holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.ca.config import CaSettings
from services.ca.shell.app import CaApp
from services.kit.bus.api import Caller, Connection, LocalAddress, Meta
from services.kit.bus.identity import Identity, NodeKey, new_key, save_node, save_roots
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from services.kit.lifecycle.app import Runtime
from services.kit.messages import identity
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, ManagerPeer, Node, RevokedCertificate
from services.kit.model.states import Availability, IssuanceState, Role
from services.kit.model.tokens import make_token, parse_token, root_digest
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SeededIds
from services.kit.runtime.tasks import TaskOwner
from services.kit.state.transaction import Transaction, update
from tests.support.one_member_store import OneMemberStore
from tests.support.running import eventually, run_async

CLUSTER = ClusterId("c" * 25)
FIRST = NodeId("f" * 25)


class StillNode:
    """A supervisor's line without a supervisor."""

    def __init__(self, certificates: Path) -> None:
        self.facts = Facts(
            node_id=NodeId(""), cluster_id=ClusterId(""), role=Role.MANAGER, certificates_dir=str(certificates)
        )
        self._changes = Changes()

    def become(self, node: Identity) -> None:
        """Have an identity."""
        self.facts = msgspec.structs.replace(
            self.facts,
            node_id=NodeId(node.node_id),
            cluster_id=ClusterId(node.cluster_id),
            identity_serial=1,
            remote_addr="10.0.0.1:4242",
        )
        self._changes.announce()

    async def changes(self) -> AsyncIterator[Facts]:
        """Yield the facts when they change."""
        seen = self.facts
        while True:
            while self.facts is seen:
                await self._changes.wait()
            seen = self.facts
            yield seen

    async def report_lock(self, unlock_key: bytes) -> None:
        """Nobody listens."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Nobody listens."""

    async def report_node(self, report: NodeReport) -> None:
        """Nobody listens."""

    async def report_ready(self) -> None:
        """Nobody listens."""


@dataclass
class Desk:
    """A running ca, its store, and a line to it as the gateway has."""

    store: OneMemberStore
    node: StillNode
    connection: Connection
    certificates: Path
    key: NodeKey

    async def found(self) -> Cluster:
        """Bootstrap, keep the identity, and wait for the cluster."""
        request = identity.Bootstrap(public_key=self.key.public, node_id=FIRST, cluster_id=CLUSTER)
        issued = await self.connection.call(identity.BOOTSTRAP, request)
        save_roots(self.certificates, issued.roots)
        save_node(self.certificates, self.key, issued.certificate)
        self.node.become(Identity(self.key, issued.certificate, issued.roots))
        await eventually(lambda: self.store.state.cluster is not None)
        await eventually(lambda: not (self.certificates / "swarm-root-ca.key").exists())
        return self.cluster

    @property
    def cluster(self) -> Cluster:
        """The cluster in the store."""
        assert self.store.state.cluster is not None
        return self.store.state.cluster

    async def issue(self, token: str, key: NodeKey, **more: str) -> identity.Issued:
        """Join as a machine that speaks with this key."""
        caller = Caller(addr="10.0.0.9", public_key=key.public)
        request = msgspec.structs.replace(identity.IssueRequest(token=token), **more)
        return await self.connection.call(identity.ISSUE, request, meta=Meta(caller=caller))

    async def renew(self, node_id: str, key: NodeKey) -> identity.Issued:
        """Renew as a node."""
        caller = Caller(node_id=node_id, role="swarm-worker", public_key=key.public)
        return await self.connection.call(identity.RENEW, identity.RenewRequest(), meta=Meta(caller=caller))

    def change(self, thing: Cluster | Node) -> None:
        """Write to the store beside the ca."""
        transaction = Transaction(client="test", sequence=self.store.state.version + 1, at=1.0, ops=(update(thing),))
        result, changes = self.store.state.apply(transaction)
        assert result.conflict is None
        self.store.record(changes)


@asynccontextmanager
async def desk(directory: Path) -> AsyncIterator[Desk]:
    network = MemoryNetwork()
    bus = MemoryBus(network, process="ca")
    settings = CaSettings(state_dir=directory)
    certificates = directory / "certificates"
    node = StillNode(certificates)
    store = OneMemberStore()
    await store.open(bus, settings.socket("raft"))
    runtime = Runtime(process="ca", clock=SystemClock(), ids=SeededIds(1), rng=random.Random(1), bus=bus, node=node)
    app = CaApp(settings, runtime)
    client = MemoryBus(network, process="gateway")
    async with TaskOwner("test") as tasks:
        await app.start()
        serving = tasks.spawn("serve", app.serve())
        yield Desk(store, node, await client.dial(LocalAddress(path=settings.socket("ca"))), certificates, new_key())
        assert not serving.done(), serving.exception()
        await app.stop()
    await client.close()
    await bus.close()


def test_the_first_manager_makes_the_cluster_and_its_root_key_leaves_the_disk(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            cluster = await ca.found()
            roots = (ca.certificates / "swarm-root-ca.crt").read_bytes()
            assert cluster.id == CLUSTER
            assert cluster.root_ca.ca_cert == roots
            assert b"PRIVATE KEY" in cluster.root_ca.ca_key
            assert cluster.root_ca.digest == root_digest(roots)
            tokens = {parse_token(cluster.root_ca.join_tokens.worker), parse_token(cluster.root_ca.join_tokens.manager)}
            assert len(tokens) == 2
            assert {token.digest for token in tokens} == {root_digest(roots)}
            node = ca.store.state.nodes[FIRST]
            assert node.role is node.spec.desired_role is Role.MANAGER
            assert node.certificate.state is IssuanceState.ISSUED
            assert node.certificate.public_key == ca.key.public
            assert node.remote_addr == "10.0.0.1:4242"

    run_async(scene())


def test_a_bootstrap_asked_twice_keeps_the_root(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            request = identity.Bootstrap(public_key=ca.key.public, node_id=FIRST, cluster_id=CLUSTER)
            first = await ca.connection.call(identity.BOOTSTRAP, request)
            second = await ca.connection.call(identity.BOOTSTRAP, request)
            assert first.roots == second.roots

    run_async(scene())


def test_a_node_with_an_identity_does_not_bootstrap_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            await ca.found()
            request = identity.Bootstrap(public_key=ca.key.public, node_id=FIRST, cluster_id=CLUSTER)
            with pytest.raises(FailedPrecondition):
                await ca.connection.call(identity.BOOTSTRAP, request)

    run_async(scene())


def test_the_token_decides_the_role_and_the_certificate_is_for_the_key_that_spoke(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            tokens = (await ca.found()).root_ca.join_tokens
            for token, role in ((tokens.worker, Role.WORKER), (tokens.manager, Role.MANAGER)):
                key = new_key()
                issued = await ca.issue(token, key, availability=Availability.DRAIN, remote_addr="10.0.0.9:4242")
                joined = Identity(key, issued.certificate, issued.roots)
                assert (joined.node_id, joined.cluster_id) == (issued.node_id, CLUSTER)
                assert joined.role == f"swarm-{role.value}"
                node = ca.store.state.nodes[issued.node_id]
                assert node.role is role
                assert node.spec.availability is Availability.DRAIN
                assert node.certificate.certificate == issued.certificate
                assert node.certificate.not_after == joined.not_after
                assert node.remote_addr == "10.0.0.9:4242"

    run_async(scene())


def test_the_same_key_asked_twice_is_one_node(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            tokens = (await ca.found()).root_ca.join_tokens
            key = new_key()
            first, second = await asyncio.gather(ca.issue(tokens.worker, key), ca.issue(tokens.worker, key))
            assert first == second
            assert len(ca.store.state.nodes) == 2
            with pytest.raises(AlreadyExists):
                await ca.issue(tokens.manager, key)

    run_async(scene())


def test_a_wrong_token_lets_nobody_in(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            cluster = await ca.found()
            for token in ("", "SWMTKN-1", make_token(cluster.root_ca.digest, bytes(16))):
                with pytest.raises(InvalidArgument, match="valid join token"):
                    await ca.issue(token, new_key())
            assert len(ca.store.state.nodes) == 1

    run_async(scene())


def test_a_removed_nodes_key_gets_no_certificate_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            cluster = await ca.found()
            key = new_key()
            revoked = RevokedCertificate(node_id=NodeId("x" * 25), public_key=key.public, expires_at=1e12)
            ca.change(msgspec.structs.replace(cluster, revoked=(revoked,)))
            with pytest.raises(PermissionDenied, match="removed"):
                await ca.issue(cluster.root_ca.join_tokens.worker, key)

    run_async(scene())


def test_a_caller_whose_key_nobody_proved_gets_no_certificate(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            token = (await ca.found()).root_ca.join_tokens.worker
            with pytest.raises(PermissionDenied):
                await ca.connection.call(identity.ISSUE, identity.IssueRequest(token=token))

    run_async(scene())


def test_a_renewal_carries_the_observed_role(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            token = (await ca.found()).root_ca.join_tokens.worker
            key = new_key()
            node_id = (await ca.issue(token, key)).node_id
            ca.change(msgspec.structs.replace(ca.store.state.nodes[node_id], role=Role.MANAGER))
            renewed = await ca.renew(node_id, key)
            assert Identity(key, renewed.certificate, renewed.roots).role == "swarm-manager"
            assert ca.store.state.nodes[node_id].certificate.role is Role.MANAGER

    run_async(scene())


def test_a_node_that_is_gone_cannot_renew(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            await ca.found()
            with pytest.raises(NotFound):
                await ca.renew("g" * 25, new_key())

    run_async(scene())


def test_a_follower_names_the_leader(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as ca:
            token = (await ca.found()).root_ca.join_tokens.worker
            ca.store.follow_leader(ManagerPeer(node_id=NodeId("l" * 25), addr="10.0.0.2:4242"))
            with pytest.raises(Unavailable) as caught:
                await ca.issue(token, new_key())
            assert caught.value.details.leader_addr == "10.0.0.2:4242"
            ca.store.follow_leader(None)
            await eventually(lambda: ca.store.status.ready)

    run_async(scene())


def test_a_node_gets_a_second_certificate_for_tls_until_it_is_removed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with desk(tmp_path) as house:
            cluster = await house.found()
            key = new_key()
            joined = await house.issue(cluster.root_ca.join_tokens.worker, key)
            private = ec.generate_private_key(ec.SECP256R1())
            public = private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            caller = Caller(node_id=joined.node_id, role="swarm-worker", public_key=key.public)
            request = identity.IssueTlsRequest(public_key=public)
            issued = await house.connection.call(identity.ISSUE_TLS, request, meta=Meta(caller=caller))
            certificate = x509.load_pem_x509_certificate(issued.certificate)
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(cluster.root_ca.ca_cert))
            assert certificate.public_key() == private.public_key()
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == [joined.node_id]
            assert issued.not_after - SystemClock().wall() <= 24 * 3600

            with pytest.raises(InvalidArgument, match="P-256"):
                await house.connection.call(
                    identity.ISSUE_TLS, identity.IssueTlsRequest(public_key=b"no key"), meta=Meta(caller=caller)
                )
            stranger = Caller(node_id="nobody", role="swarm-worker", public_key=new_key().public)
            with pytest.raises(NotFound):
                await house.connection.call(identity.ISSUE_TLS, request, meta=Meta(caller=stranger))

    run_async(scene())
