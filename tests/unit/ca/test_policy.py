"""Who may ask the ca for what."""

from __future__ import annotations

import math

import pytest

from services.ca.core import policy
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, JoinTokens, RevokedCertificate, RootCa
from services.kit.model.specs import CaConfig, ClusterSpec
from services.kit.model.states import Role
from services.kit.state.state import State

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
