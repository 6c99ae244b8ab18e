"""The cluster: what users see of it, its settings, and the rotation of its tokens and unlock key."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from services.dispatcher.core.control.answers import Answer, out_of_sequence
from services.dispatcher.core.control.refs import find_cluster
from services.kit.errors import FailedPrecondition, InvalidArgument, Problem
from services.kit.messages.control import UpdateClusterRequest
from services.kit.model.objects import Cluster, TokenLimits
from services.kit.model.root_material import root_problems
from services.kit.model.tokens import SECRET_BYTES, make_token
from services.kit.model.validate import cluster_problems
from services.kit.state.transaction import update
from services.kit.state.view import View

Entropy = Callable[[int], bytes]
"""Gives so many fresh random bytes."""

UNLOCK_KEY_BYTES = 32
REVOKED_GRACE_S = 7 * 24 * 3600.0
"""A revoked certificate is remembered this long after it ran out."""

_replace = msgspec.structs.replace


def shown_cluster(cluster: Cluster) -> Cluster:
    """Return the cluster without its secrets; join tokens are shown."""
    rotation = cluster.root_ca.rotation
    root = _replace(cluster.root_ca, ca_key=b"", rotation=None if rotation is None else _replace(rotation, ca_key=b""))
    ca = _replace(cluster.spec.ca, signing_ca_key=b"", signing_ca_cert=b"")
    return _replace(cluster, root_ca=root, spec=_replace(cluster.spec, ca=ca), unlock_key=b"")


def update_cluster(view: View, request: UpdateClusterRequest, entropy: Entropy, now: float) -> Answer:
    """Return the write that changes the cluster's settings and rotates what is named."""
    cluster = find_cluster(view, "")
    if request.version != cluster.meta.version:
        raise out_of_sequence("cluster", cluster.meta.version, request.version)
    ca = request.spec.ca
    problems = cluster_problems(request.spec) + root_problems(
        ca.signing_ca_cert, ca.signing_ca_key, current=cluster.root_ca.ca_cert, now=now
    )
    if problems:
        raise InvalidArgument.of(problems)
    tokens, digest = cluster.root_ca.join_tokens, cluster.root_ca.digest
    limits = _limits(request, now)
    if request.rotate_worker_token:
        tokens = _replace(tokens, worker=make_token(digest, entropy(SECRET_BYTES)), worker_limits=limits)
    if request.rotate_manager_token:
        tokens = _replace(tokens, manager=make_token(digest, entropy(SECRET_BYTES)), manager_limits=limits)
    fresh = _replace(
        cluster,
        spec=request.spec,
        root_ca=_replace(cluster.root_ca, join_tokens=tokens),
        unlock_key=_unlock_key(cluster, request, entropy),
        revoked=tuple(each for each in cluster.revoked if each.expires_at + REVOKED_GRACE_S > now),
    )
    return Answer(ops=(update(fresh),), thing=fresh)


def _limits(request: UpdateClusterRequest, now: float) -> TokenLimits:
    problems = [
        Problem(path=path, reason="must not be negative", value=str(value))
        for path, value in (("token_lives_s", request.token_lives_s), ("token_uses", request.token_uses))
        if value < 0
    ]
    limited = request.token_lives_s or request.token_uses
    if limited and not (request.rotate_worker_token or request.rotate_manager_token):
        problems.append(Problem(path="token_uses", reason="limits a new token, but none is made"))
    if problems:
        raise InvalidArgument.of(tuple(problems))
    expires_at = now + request.token_lives_s if request.token_lives_s else 0.0
    return TokenLimits(expires_at=expires_at, uses_left=request.token_uses or None)


def _unlock_key(cluster: Cluster, request: UpdateClusterRequest, entropy: Entropy) -> bytes:
    """Locking managers makes a key, unlocking them forgets it."""
    if not request.spec.auto_lock_managers:
        if request.rotate_unlock_key:
            raise FailedPrecondition("there is no unlock key to rotate: managers are not locked")
        return b""
    if request.rotate_unlock_key or not cluster.unlock_key:
        return entropy(UNLOCK_KEY_BYTES)
    return cluster.unlock_key
