"""Who may ask the ca for what."""

from __future__ import annotations

import math

import pytest

from services.ca.core import policy
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import (
    Cluster,
    JoinTokens,
    Node,
    NodeCertificate,
    RevokedCertificate,
    RootCa,
    TokenLimits,
)
from services.kit.model.specs import CaConfig, ClusterSpec
from services.kit.model.states import Role
from services.kit.state.state import State
from services.kit.state.transaction import Transaction, create

KEY = b"k" * 32
CLUSTER = Cluster(
    id=ClusterId("c"),
    root_ca=RootCa(join_tokens=JoinTokens(worker="w-token", manager="m-token")),
    revoked=(RevokedCertificate(node_id=NodeId("gone"), public_key=b"g" * 32, expires_at=0.0),),
)


def test_each_token_gives_its_role() -> None:
    assert policy.role_of_token(CLUSTER, "w-token") is Role.WORKER
    assert policy.role_of_token(CLUSTER, "m-token") is Role.MANAGER


@pytest.mark.parametrize("token", ["", "x", "w-toke", "w-token ", "m-tokenm-token"])
def test_any_other_token_is_refused_in_the_words_of_swarmkit(token: str) -> None:
    with pytest.raises(InvalidArgument, match="a valid join token is necessary to join this cluster"):
        policy.role_of_token(CLUSTER, token)


def test_a_cluster_without_tokens_lets_nobody_in() -> None:
    with pytest.raises(InvalidArgument):
        policy.role_of_token(Cluster(id=ClusterId("c")), "")


def with_limits(**limits: object) -> Cluster:
    held = JoinTokens(worker="w-token", manager="m-token", worker_limits=TokenLimits(**limits))  # type: ignore[arg-type]
    return Cluster(id=ClusterId("c"), root_ca=RootCa(join_tokens=held))


def test_a_token_without_limits_is_never_spent() -> None:
    assert policy.spent_token(CLUSTER, Role.WORKER, 1e12) is None


def test_each_use_of_a_counted_token_is_counted_until_none_is_left() -> None:
    cluster = with_limits(uses_left=2)
    for left in (1, 0):
        spent = policy.spent_token(cluster, Role.WORKER, 0.0)
        assert spent is not None
        assert spent.root_ca.join_tokens.worker_limits.uses_left == left
        cluster = spent
    with pytest.raises(InvalidArgument, match="as many nodes as it may"):
        policy.spent_token(cluster, Role.WORKER, 0.0)
    assert policy.spent_token(cluster, Role.MANAGER, 0.0) is None, "the other token has limits of its own"


def test_a_token_lets_nobody_in_once_it_has_expired() -> None:
    cluster = with_limits(expires_at=100.0)
    assert policy.spent_token(cluster, Role.WORKER, 99.9) is None
    with pytest.raises(InvalidArgument, match="expired"):
        policy.spent_token(cluster, Role.WORKER, 100.0)


def a_node(not_after: float) -> State:
    state = State()
    node = Node(id=NodeId("n"), certificate=NodeCertificate(public_key=KEY, not_after=not_after))
    state.apply(Transaction(client="t", sequence=1, at=0.0, ops=(create(node),)))
    return state


def test_a_node_whose_certificate_ran_out_is_known_by_its_key_within_the_window_and_not_after_it() -> None:
    window_s = CLUSTER.spec.ca.expired_return_s
    state = a_node(not_after=1000.0)
    assert policy.returning_node(state, CLUSTER, KEY, 1000.0 + window_s).id == "n"
    with pytest.raises(PermissionDenied, match="366 days ago: remove the node"):
        policy.returning_node(state, CLUSTER, KEY, 1001.0 + window_s)
    with pytest.raises(NotFound):
        policy.returning_node(state, CLUSTER, b"x" * 32, 1000.0)


def test_only_a_proven_key_of_nobody_removed_is_certified() -> None:
    assert policy.certified_key(CLUSTER, KEY) == KEY
    for key in (b"", b"k" * 31, b"g" * 32):
        with pytest.raises(PermissionDenied):
            policy.certified_key(CLUSTER, key)


def test_a_lifetime_below_an_hour_gives_the_default() -> None:
    def validity_s(asked_s: float) -> float:
        return policy.certificate_validity_s(ClusterSpec(ca=CaConfig(node_cert_expiry_s=asked_s)), math.inf)

    assert validity_s(3600.0) == 3600.0
    assert validity_s(3599.0) == validity_s(0.0) == CaConfig().node_cert_expiry_s


def test_an_empty_store_has_no_cluster_and_no_nodes() -> None:
    with pytest.raises(FailedPrecondition):
        policy.existing_cluster(State())
    with pytest.raises(NotFound):
        policy.renewing_node(State(), "n")
