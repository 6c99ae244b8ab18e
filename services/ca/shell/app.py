"""The ca process: answers bootstrap, issue, renew and unlock_key, and founds the cluster on its first manager.

One issuance at a time: read behind a barrier, sign, commit, answer. What must stay true: a certificate leaves this process only
after the store holds its record (the very first one excepted: the store cannot run before there is an identity).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.ca.config import CaSettings
from services.ca.core import policy
from services.ca.core.issuance import Root, Signed, node_of_key, plan_birth, plan_installed, plan_renewal
from services.ca.core.rotation import signing_root
from services.ca.shell.crypto import Signer, Signs, make_root
from services.ca.shell.founder import Founder
from services.ca.shell.keystore import Keystore
from services.ca.shell.ledger import Ledger
from services.ca.shell.rotation import RootRotator
from services.kit.bus.api import Context, Listener
from services.kit.bus.rpc import Table
from services.kit.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, Unavailable
from services.kit.lifecycle.app import Runtime
from services.kit.messages import identity
from services.kit.messages.method import Empty
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, Node
from services.kit.model.specs import ClusterSpec
from services.kit.model.states import Role
from services.kit.model.unlock_key import format_unlock_key
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.state.view import View
from services.kit.store.client import TransactionConflict

CONFLICTS_MAX = 5
"""Attempts at a renewal that others keep overtaking."""


class CaApp:
    """One run of the ca process."""

    def __init__(
        self, settings: CaSettings, runtime: Runtime, *, make_signer: Callable[[Root], Signs] = Signer
    ) -> None:
        self._make_signer = make_signer
        self._settings = settings
        self._runtime = runtime
        self._log = Log("ca")
        self._tasks = TaskOwner("ca")
        self._listener: Listener | None = None
        self._keystore = Keystore(settings.state_dir / "certificates")
        self._ledger = Ledger(runtime, settings.socket("raft"))
        self._founder = Founder(settings, runtime, self._ledger, self._keystore)
        self._rotation = RootRotator(settings, runtime, self._ledger)
        self._signer: Signs | None = None
        self._one_at_a_time = asyncio.Lock()

    # -- life

    async def start(self) -> None:
        """Listen."""
        table = Table(trusted=True)
        table.on_call(identity.BOOTSTRAP, self._bootstrap)
        table.on_call(identity.ISSUE, self._issue)
        table.on_call(identity.RENEW, self._renew)
        table.on_call(identity.RETURN, self._return)
        table.on_call(identity.INSTALLED, self._installed)
        table.on_call(identity.ISSUE_TLS, self._issue_tls)
        table.on_call(identity.UNLOCK_KEY, self._unlock_key)
        self._listener = await self._runtime.bus.listen_local(self._settings.socket("ca"), table)

    async def serve(self) -> None:
        """Follow the store from the moment the node has an identity, until cancelled."""
        await self._identity()
        self._ledger.follow(self._tasks)
        self._tasks.spawn("founder", self._founder.run())
        self._tasks.spawn("rotation", self._rotation.run())
        raise await self._tasks.failed()

    async def stop(self) -> None:
        """Let an issuance under way finish, then close."""
        if self._listener is not None:
            await self._listener.close(drain_s=self._settings.issue_timeout_s)
        await self._tasks.close()
        await self._ledger.close()

    async def _identity(self) -> None:
        if self._runtime.node.facts.identity_serial:
            return
        async for facts in self._runtime.node.changes():
            if facts.identity_serial:
                return

    # -- calls

    async def _bootstrap(self, context: Context, request: identity.Bootstrap) -> identity.Issued:
        """Make the root of a new cluster and the certificate of its first manager; asked again, the root stays the same."""
        if self._runtime.node.facts.identity_serial:
            raise FailedPrecondition("this node is part of a cluster already")
        now = self._runtime.clock.wall()
        root = self._keystore.load()
        if not (root.certificate and root.key):
            root = make_root(now, root.key)
            self._keystore.save(root)
            self._log.info("root made", cluster=request.cluster_id)
        signed = Signer(root).sign(
            public_key=request.public_key,
            node_id=request.node_id,
            cluster_id=request.cluster_id,
            role=Role.MANAGER,
            validity_s=policy.certificate_validity_s(ClusterSpec(), self._settings.certificate_validity_max_s),
            now=now,
        )
        return _issued(request.cluster_id, root.certificate, signed.node_id, signed.role, signed.certificate)

    async def _issue(self, context: Context, request: identity.IssueRequest) -> identity.Issued:
        """Let a node in that shows a join token. The same key asked twice is the same node, and one use of the token."""
        for _ in range(CONFLICTS_MAX):
            try:
                return await self._let_in(context, request)
            except TransactionConflict as error:
                self._log.debug("joining was overtaken", cause=str(error))
        raise Unavailable("the cluster keeps changing: try again")

    async def _let_in(self, context: Context, request: identity.IssueRequest) -> identity.Issued:
        async with self._issuance() as cluster:
            role = policy.role_of_token(cluster, request.token)
            public_key = policy.certified_key(cluster, context.caller.public_key)
            known = node_of_key(await self._ledger.fresh_view(), public_key)
            if known is not None:
                return _answer_again(cluster, known, role)
            spent = policy.spent_token(cluster, role, self._runtime.clock.wall())
            signed = self._sign(cluster, NodeId(self._runtime.ids.new("node")), role, public_key)
            ops = plan_birth(signed, availability=request.availability, remote_addr=request.remote_addr, spent=spent)
            await self._ledger.commit(ops, timeout_s=self._settings.issue_timeout_s)
        self._log.info("node let in", joined=signed.node_id, role=role.value, addr=context.caller.addr)
        return _issued(cluster.id, cluster.root_ca.ca_cert, signed.node_id, role, signed.certificate)

    async def _renew(self, context: Context, request: identity.RenewRequest) -> identity.Issued:
        """Give a node a fresh certificate, with its observed role, for the key it speaks with."""

        def find(view: View, cluster: Cluster) -> Node:
            return policy.renewing_node(view, context.caller.node_id)

        return await self._fresh_certificate(context, request.remote_addr, find)

    async def _return(self, context: Context, request: identity.ReturnRequest) -> identity.Issued:
        """Do the same for a node that has nothing left but its key."""

        def find(view: View, cluster: Cluster) -> Node:
            return policy.returning_node(view, cluster, context.caller.public_key, self._runtime.clock.wall())

        return await self._fresh_certificate(context, request.remote_addr, find)

    async def _fresh_certificate(
        self, context: Context, remote_addr: str, find: Callable[[View, Cluster], Node]
    ) -> identity.Issued:
        for _ in range(CONFLICTS_MAX):
            try:
                async with self._issuance() as cluster:
                    public_key = policy.certified_key(cluster, context.caller.public_key)
                    node = find(await self._ledger.fresh_view(), cluster)
                    signed = self._sign(cluster, node.id, node.role, public_key)
                    ops = plan_renewal(node, signed, remote_addr=remote_addr)
                    await self._ledger.commit(ops, timeout_s=self._settings.issue_timeout_s)
            except TransactionConflict as error:
                self._log.debug("renewal was overtaken", cause=str(error))
            else:
                self._log.info("certificate renewed", renewed=node.id, role=node.role.value)
                return _issued(cluster.id, cluster.root_ca.ca_cert, node.id, node.role, signed.certificate)
        raise Unavailable("the node keeps changing: try again")

    async def _installed(self, context: Context, request: identity.InstalledRequest) -> Empty:
        """Take note of who signed the certificate that a node uses now."""
        for _ in range(CONFLICTS_MAX):
            node = policy.renewing_node(await self._ledger.fresh_view(), context.caller.node_id)
            ops = plan_installed(node, request.issuer)
            try:
                if ops:
                    await self._ledger.commit(ops, timeout_s=self._settings.issue_timeout_s)
            except TransactionConflict as error:
                self._log.debug("confirmation was overtaken", cause=str(error))
            else:
                return Empty()
        raise Unavailable("the node keeps changing: try again")

    async def _issue_tls(self, context: Context, request: identity.IssueTlsRequest) -> identity.IssuedTls:
        """Certify a node's key for TLS between gateways. Short-lived and not recorded: a removed node gets no next one."""
        async with self._issuance() as cluster:
            node = policy.renewing_node(await self._ledger.fresh_view(), context.caller.node_id)
            policy.certified_key(cluster, context.caller.public_key)
            signed = self._signer_of(cluster).sign_tls(
                public_key=request.public_key,
                node_id=node.id,
                cluster_id=cluster.id,
                role=node.role,
                validity_s=policy.tls_validity_s(cluster.spec, self._settings.certificate_validity_max_s),
                now=self._runtime.clock.wall(),
            )
        self._log.debug("certificate for TLS", certified=node.id)
        return identity.IssuedTls(
            certificate=signed.certificate, roots=cluster.root_ca.ca_cert, not_after=signed.not_after
        )

    async def _unlock_key(self, context: Context, request: identity.UnlockKeyRequest) -> identity.UnlockKeyReply:
        """Tell a manager the key that seals its state."""
        cluster = policy.existing_cluster(await self._ledger.fresh_view())
        return identity.UnlockKeyReply(unlock_key=format_unlock_key(cluster.unlock_key))

    # -- steps

    @asynccontextmanager
    async def _issuance(self) -> AsyncIterator[Cluster]:
        """One issuance at a time, each within its time; yields the cluster as it is now."""
        try:
            async with asyncio.timeout(self._settings.issue_timeout_s), self._one_at_a_time:
                yield policy.existing_cluster(await self._ledger.fresh_view())
        except TimeoutError:
            raise DeadlineExceeded("the certificate was not issued in time") from None

    def _sign(self, cluster: Cluster, node_id: NodeId, role: Role, public_key: bytes) -> Signed:
        return self._signer_of(cluster).sign(
            public_key=public_key,
            node_id=node_id,
            cluster_id=cluster.id,
            role=role,
            validity_s=policy.certificate_validity_s(cluster.spec, self._settings.certificate_validity_max_s),
            now=self._runtime.clock.wall(),
        )

    def _signer_of(self, cluster: Cluster) -> Signs:
        """Return the signer under the cluster's root of now."""
        root = signing_root(cluster)
        if self._signer is None or self._signer.root != root:
            self._signer = self._make_signer(root)
        return self._signer


def _answer_again(cluster: Cluster, node: Node, role: Role) -> identity.Issued:
    if node.certificate.role is not role:
        raise AlreadyExists(f"this key belongs to node {node.id} already, a {node.certificate.role.value}")
    return _issued(cluster.id, cluster.root_ca.ca_cert, node.id, role, node.certificate.certificate)


def _issued(cluster_id: ClusterId, roots: bytes, node_id: NodeId, role: Role, certificate: bytes) -> identity.Issued:
    return identity.Issued(node_id=node_id, cluster_id=cluster_id, role=role, certificate=certificate, roots=roots)
