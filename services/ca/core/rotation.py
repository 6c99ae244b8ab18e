"""Moving a cluster to another root while it runs: what is wanted, who still has to renew, and when it is over.

Driven by ``shell/rotation.py`` on the leader. The old root certifies the new one's key (cross-signing), so that what hangs on the new root
is trusted by everybody at once; then all nodes renew, some at a time; when each of them uses a certificate of the new root, the new root
takes the old one's place. What must stay true: a node that cannot follow yet (it is down) holds the end up, and nothing else; at every
moment every node trusts every other; the words of a user are acted on once.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from services.ca.core.issuance import Root
from services.kit.model.objects import Cluster, JoinTokens, Node, RootCa, RootRotation
from services.kit.model.states import IssuanceState
from services.kit.model.tokens import make_token, root_digest
from services.kit.state.transaction import Op, update
from services.kit.state.view import View

BATCH_MAX = 30
"""Nodes that are asked to renew at one time."""
ASKED = frozenset({IssuanceState.ROTATE, IssuanceState.PENDING, IssuanceState.RENEW})

_replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Begin to rotate, in place of what is under way; without a root to a fresh one."""

    root: Root | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapKey:
    """Go on with another key for the root that is on its way in."""

    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Stay with the root there is."""


Wish = Begin | SwapKey | Abort


def wish_of(cluster: Cluster) -> Wish | None:
    """Return what the cluster's settings ask for that has not been begun. No certificate in them asks for nothing."""
    ca, root = cluster.spec.ca, cluster.root_ca
    rotation, wanted = root.rotation, ca.signing_ca_cert
    if not wanted:
        return Begin() if ca.force_rotate > root.last_forced_rotation else None
    if wanted == root.ca_cert:
        return Abort() if rotation is not None else None
    if rotation is None or wanted != rotation.ca_cert:
        return Begin(root=Root(certificate=wanted, key=ca.signing_ca_key))
    if ca.signing_ca_key and ca.signing_ca_key != rotation.ca_key:
        return SwapKey(key=ca.signing_ca_key)
    return None


def signing_root(cluster: Cluster) -> Root:
    """Return what certificates are signed with now: while a rotation is under way the new root, with the way to the old one."""
    root = cluster.root_ca
    if root.rotation is None:
        return Root(certificate=root.ca_cert, key=root.ca_key)
    rotation = root.rotation
    return Root(certificate=rotation.ca_cert, key=rotation.ca_key, intermediates=rotation.cross_signed_cert)


def plan_begin(cluster: Cluster, root: Root, cross_signed: bytes) -> tuple[Op, ...]:
    """Have all certificates signed by another root from now on."""
    rotation = RootRotation(ca_cert=root.certificate, ca_key=root.key, cross_signed_cert=cross_signed)
    return _with_root(cluster, rotation=rotation, last_forced_rotation=cluster.spec.ca.force_rotate)


def plan_swap(cluster: Cluster, key: bytes) -> tuple[Op, ...]:
    """Sign with another key for the same certificate."""
    assert cluster.root_ca.rotation is not None, "there is a rotation whose key is swapped"
    return _with_root(cluster, rotation=_replace(cluster.root_ca.rotation, ca_key=key))


def plan_abort(cluster: Cluster) -> tuple[Op, ...]:
    """Sign with the old root again; what the new one has signed is trusted for as long as it lasts, by way of the old one."""
    return _with_root(cluster, rotation=None, last_forced_rotation=cluster.spec.ca.force_rotate)


def plan_batch(view: View, issuer: bytes) -> tuple[Op, ...]:
    """Ask the next nodes to renew."""
    behind = [node for node in nodes_behind(view, issuer) if node.certificate.state not in ASKED]
    return tuple(
        update(_replace(node, certificate=_replace(node.certificate, state=IssuanceState.ROTATE)))
        for node in behind[:BATCH_MAX]
    )


def nodes_behind(view: View, issuer: bytes) -> list[Node]:
    """Return the nodes that have not confirmed to use a certificate of this issuer."""
    nodes = sorted(view.nodes.values(), key=lambda node: node.id)
    return [node for node in nodes if node.certificate.issuer != issuer]


def plan_end(cluster: Cluster, worker_entropy: bytes, manager_entropy: bytes) -> tuple[Op, ...]:
    """Let the new root take the old one's place; join tokens name their root, so there are new ones."""
    rotation = cluster.root_ca.rotation
    assert rotation is not None, "there is a rotation to end"
    digest = root_digest(rotation.ca_cert)
    held = cluster.root_ca.join_tokens
    tokens = JoinTokens(
        worker=make_token(digest, worker_entropy),
        manager=make_token(digest, manager_entropy),
        worker_limits=held.worker_limits,
        manager_limits=held.manager_limits,
    )
    fresh = RootCa(
        ca_cert=rotation.ca_cert,
        ca_key=rotation.ca_key,
        digest=digest,
        join_tokens=tokens,
        last_forced_rotation=cluster.root_ca.last_forced_rotation,
    )
    return (update(_replace(cluster, root_ca=fresh)),)


def _with_root(cluster: Cluster, **changes: object) -> tuple[Op, ...]:
    return (update(_replace(cluster, root_ca=_replace(cluster.root_ca, **changes))),)
