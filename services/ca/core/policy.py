"""Who may ask the ca for what. Called by the shell with a view that is fresh enough to decide on.

Every refusal is a typed error with the words that the asker reads; what a caller claims of itself decides nothing here.
"""

from __future__ import annotations

import msgspec

from services.ca.core.issuance import node_of_key
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Problem
from services.kit.model import tokens
from services.kit.model.ids import NodeId
from services.kit.model.objects import Cluster, Node
from services.kit.model.specs import CaConfig, ClusterSpec
from services.kit.model.states import Role
from services.kit.state.view import View

CERTIFICATE_VALIDITY_MIN_S = 3600.0
PUBLIC_KEY_BYTES = 32
_NEW_TOKEN = "make a new one with `swarmctl cluster update --rotate-join-token`"
_replace = msgspec.structs.replace
TLS_VALIDITY_S = 24 * 3600.0


def role_of_token(cluster: Cluster, token: str) -> Role:
    """Return the role that this token gives; raises InvalidArgument. Both tokens are always compared."""
    asks_for_manager = tokens.matches(token, cluster.root_ca.join_tokens.manager)
    asks_for_worker = tokens.matches(token, cluster.root_ca.join_tokens.worker)
    if asks_for_manager:
        return Role.MANAGER
    if asks_for_worker:
        return Role.WORKER
    raise _refused(
        "a valid join token is necessary to join this cluster",
        "it may have been rotated: `swarmctl cluster inspect` shows the current ones",
    )


def spent_token(cluster: Cluster, role: Role, now: float) -> Cluster | None:
    """Return the cluster after one use of a role's token, None when uses are not counted; raises InvalidArgument for a dead token."""
    held = cluster.root_ca.join_tokens
    limits = held.manager_limits if role is Role.MANAGER else held.worker_limits
    if limits.expires_at and now >= limits.expires_at:
        raise _refused("this join token has expired", _NEW_TOKEN)
    if limits.uses_left is None:
        return None
    if limits.uses_left <= 0:
        raise _refused("this join token has let in as many nodes as it may", _NEW_TOKEN)
    fewer = _replace(limits, uses_left=limits.uses_left - 1)
    tokens_left = _replace(held, **{f"{role.value}_limits": fewer})
    return _replace(cluster, root_ca=_replace(cluster.root_ca, join_tokens=tokens_left))


def certified_key(cluster: Cluster, public_key: bytes) -> bytes:
    """Return the key to certify: the one that CURVE authenticated, unless it belongs to a removed node."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise PermissionDenied("a certificate is only given to a key that speaks for itself over the remote API")
    if any(revoked.public_key == public_key for revoked in cluster.revoked):
        raise PermissionDenied("this key belonged to a node that was removed from the cluster")
    return public_key


def renewing_node(view: View, node_id: str) -> Node:
    """Return the node that may renew; a node that was removed is not found."""
    node = view.nodes.get(NodeId(node_id))
    if node is None:
        raise NotFound(f"node {node_id} is not part of this cluster (any more)")
    return node


def existing_cluster(view: View) -> Cluster:
    """Return the cluster; raises FailedPrecondition while the first leader has not made it."""
    if view.cluster is None:
        raise FailedPrecondition("the cluster is still being made: try again")
    return view.cluster


def returning_node(view: View, cluster: Cluster, public_key: bytes, now: float) -> Node:
    """Return the node that this key belongs to, if its certificate did not run out too long ago."""
    node = node_of_key(view, public_key)
    if node is None:
        raise NotFound("the key of this node belongs to no node of this cluster (any more)")
    window_s = cluster.spec.ca.expired_return_s
    if now > node.certificate.not_after + window_s:
        raise PermissionDenied(
            f"the certificate of node {node.id} ran out more than {window_s / 86400:g} days ago: remove the node from "
            "the cluster and let it join again with an empty state directory"
        )
    return node


def certificate_validity_s(spec: ClusterSpec, most_s: float) -> float:
    """Return how long new certificates live; a time below an hour counts as a mistake and gives the default."""
    asked_s = spec.ca.node_cert_expiry_s
    return min(most_s, asked_s if asked_s >= CERTIFICATE_VALIDITY_MIN_S else CaConfig().node_cert_expiry_s)


def tls_validity_s(spec: ClusterSpec, most_s: float) -> float:
    """Return how long a certificate for TLS between gateways lives: a day, or as long as the node's when that is shorter."""
    return min(TLS_VALIDITY_S, certificate_validity_s(spec, most_s))


def _refused(reason: str, hint: str) -> InvalidArgument:
    return InvalidArgument.of((Problem(path="token", reason=reason, hint=hint),))
