"""The transactions of the ca: a new cluster with its first node, a node's birth, a renewal.

Each is one list of operations that takes effect whole or not at all. What must stay true: this is the only place where nodes are
born, a key has at most one node, and a certificate is in the store before anybody receives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from services.kit.model import tokens
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, JoinTokens, Node, NodeCertificate, RootCa
from services.kit.model.specs import ClusterSpec, NodeSpec
from services.kit.model.states import Availability, IssuanceState, Role
from services.kit.state.transaction import Op, create, update
from services.kit.state.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A certificate fresh from the signer."""

    node_id: NodeId
    role: Role
    public_key: bytes
    certificate: bytes
    """PEM: leaf, then intermediates."""
    not_after: float
    issuer: bytes = b""
    """Key that signed it, DER, where the node is known to use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The cluster's root as it lies on the first manager's disk."""

    certificate: bytes
    """PEM bundle."""
    key: bytes = b""
    """PEM."""
    intermediates: bytes = b""
    """PEM: what leads from here to a root that nodes trust already; goes out with every certificate."""


def plan_cluster(
    *,
    cluster_id: ClusterId,
    root: Root,
    first: Signed,
    availability: Availability,
    remote_addr: str,
    worker_entropy: bytes,
    manager_entropy: bytes,
    unlock_key: bytes = b"",
) -> tuple[Op, ...]:
    """Make the cluster and its first node, a manager; with an unlock key its managers are locked from the start."""
    digest = tokens.root_digest(root.certificate)
    join_tokens = JoinTokens(
        worker=tokens.make_token(digest, worker_entropy), manager=tokens.make_token(digest, manager_entropy)
    )
    root_ca = RootCa(ca_cert=root.certificate, ca_key=root.key, digest=digest, join_tokens=join_tokens)
    spec = ClusterSpec(auto_lock_managers=bool(unlock_key))
    cluster = Cluster(id=cluster_id, spec=spec, root_ca=root_ca, unlock_key=unlock_key)
    return create(cluster), create(_born(first, availability, remote_addr))


def plan_birth(
    signed: Signed, *, availability: Availability, remote_addr: str, spent: Cluster | None = None
) -> tuple[Op, ...]:
    """Let a node in; ``spent`` is the cluster with the use of a token counted."""
    born = create(_born(signed, availability, remote_addr))
    return (born,) if spent is None else (born, update(spent))


def plan_renewal(node: Node, signed: Signed, *, remote_addr: str) -> tuple[Op, ...]:
    """Record a fresh certificate, and the node's address when it told a new one."""
    record = msgspec.structs.replace(_record(signed), issuer=node.certificate.issuer)
    changed = msgspec.structs.replace(node, certificate=record, remote_addr=remote_addr or node.remote_addr)
    return (update(changed),)


def plan_installed(node: Node, issuer: bytes) -> tuple[Op, ...]:
    """Record who signed the certificate that a node says it uses."""
    if node.certificate.issuer == issuer:
        return ()
    return (
        update(msgspec.structs.replace(node, certificate=msgspec.structs.replace(node.certificate, issuer=issuer))),
    )


def node_of_key(view: View, public_key: bytes) -> Node | None:
    """Return the node that was born with this key: the same join asked twice, its first answer lost."""
    return next((node for node in view.nodes.values() if node.certificate.public_key == public_key), None)


def _born(signed: Signed, availability: Availability, remote_addr: str) -> Node:
    return Node(
        id=signed.node_id,
        spec=NodeSpec(desired_role=signed.role, availability=availability),
        role=signed.role,
        certificate=_record(signed),
        remote_addr=remote_addr,
    )


def _record(signed: Signed) -> NodeCertificate:
    return NodeCertificate(
        role=signed.role,
        public_key=signed.public_key,
        state=IssuanceState.ISSUED,
        certificate=signed.certificate,
        not_after=signed.not_after,
        issuer=signed.issuer,
    )
