"""Moving to another root: what the settings ask for is begun once, nodes renew in batches, and which roots are refused."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from services.ca.core.issuance import Root
from services.ca.core.rotation import (
    BATCH_MAX,
    Abort,
    Begin,
    SwapKey,
    nodes_behind,
    plan_abort,
    plan_batch,
    plan_begin,
    plan_end,
    signing_root,
    wish_of,
)
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, Node, NodeCertificate, RootCa
from services.kit.model.root_material import root_problems
from services.kit.model.specs import CaConfig, ClusterSpec
from services.kit.model.states import IssuanceState
from services.kit.model.tokens import parse_token, root_digest
from services.kit.runtime.clock import SystemClock
from services.kit.state.state import State
from services.kit.state.transaction import Op, Transaction, create
from tests.support.pki import Authority

OLD = RootCa(ca_cert=b"old", ca_key=b"old key", digest=root_digest(b"old"))
NEW = Root(certificate=b"new", key=b"new key")
ISSUER = b"key of the new root"


def state_of(*things: Cluster | Node) -> State:
    state = State()
    apply(state, tuple(create(thing) for thing in things))
    return state


def apply(state: State, ops: tuple[Op, ...]) -> None:
    result, _ = state.apply(Transaction(client="test", sequence=state.version + 1, at=1.0, ops=ops))
    assert result.conflict is None


def asking(state: State, **ca: object) -> Cluster:
    """Return the cluster as if its settings were these."""
    assert state.cluster is not None
    spec = msgspec.structs.replace(state.cluster.spec, ca=CaConfig(**ca))  # type: ignore[arg-type]
    return msgspec.structs.replace(state.cluster, spec=spec)


def test_what_the_settings_ask_for_is_asked_once() -> None:
    state = state_of(Cluster(id=ClusterId("c"), spec=ClusterSpec(), root_ca=OLD))
    assert wish_of(asking(state)) is None
    assert wish_of(asking(state, force_rotate=1)) == Begin()
    wanted = asking(state, signing_ca_cert=b"new", signing_ca_key=b"new key")
    assert wish_of(wanted) == Begin(root=NEW)
    assert wish_of(asking(state, signing_ca_cert=b"old")) is None, "that is the root there is"
    apply(state, plan_begin(wanted, NEW, b"crossed"))
    assert wish_of(asking(state)) is None, "somebody changed another setting meanwhile"
    assert wish_of(asking(state, signing_ca_cert=b"new", signing_ca_key=b"new key")) is None
    assert wish_of(asking(state, signing_ca_cert=b"new", signing_ca_key=b"next key")) == SwapKey(key=b"next key")
    assert wish_of(asking(state, signing_ca_cert=b"third", signing_ca_key=b"k")) == Begin(
        root=Root(certificate=b"third", key=b"k")
    )
    assert wish_of(asking(state, force_rotate=1)) == Begin()
    assert wish_of(asking(state, signing_ca_cert=b"old")) == Abort()
    assert signing_root(asking(state)) == Root(certificate=b"new", key=b"new key", intermediates=b"crossed")
    apply(state, plan_abort(asking(state, force_rotate=7)))
    assert wish_of(asking(state, force_rotate=7)) is None, "an aborted rotation does not begin by itself"
    assert signing_root(asking(state)) == Root(certificate=b"old", key=b"old key")


def test_nodes_renew_in_batches_and_new_tokens_name_the_new_root() -> None:
    nodes = [Node(id=NodeId(f"n{number:03}"), certificate=NodeCertificate(issuer=b"old")) for number in range(70)]
    state = state_of(Cluster(id=ClusterId("c"), root_ca=OLD), *nodes)
    apply(state, plan_begin(asking(state), NEW, b"crossed"))
    for expected in (BATCH_MAX, BATCH_MAX, 10, 0):
        ops = plan_batch(state, ISSUER)
        assert len(ops) == expected
        apply(state, ops)
    assert all(node.certificate.state is IssuanceState.ROTATE for node in state.nodes.values())
    assert len(nodes_behind(state, ISSUER)) == 70
    apply(state, plan_end(asking(state), bytes(16), bytes(range(16))))
    root = asking(state).root_ca
    assert (root.ca_cert, root.ca_key, root.rotation) == (b"new", b"new key", None)
    assert parse_token(root.join_tokens.worker).digest == root.digest == root_digest(b"new")
    assert root.join_tokens.worker != root.join_tokens.manager


def key_of(authority: Authority) -> bytes:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return authority.key.private_bytes(pem, pkcs8, serialization.NoEncryption())


CURRENT, FRESH, SHORT, LEAF = Authority(), Authority(), Authority(days=300), Authority(ca=False)


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        (b"", b"", ""),
        (CURRENT.pem, b"", ""),
        (FRESH.pem, key_of(FRESH), ""),
        (b"", key_of(FRESH), "without its certificate"),
        (b"junk", key_of(FRESH), "no certificate in PEM"),
        (FRESH.pem + CURRENT.pem, key_of(FRESH), "2 certificates"),
        (FRESH.pem, b"", "is missing"),
        (FRESH.pem, b"junk", "no private key"),
        (FRESH.pem, key_of(SHORT), "does not belong"),
        (SHORT.pem, key_of(SHORT), "less than a year"),
        (LEAF.pem, key_of(LEAF), "may not sign"),
    ],
)
def test_a_root_that_is_no_good_is_refused_with_its_reason(certificate: bytes, key: bytes, reason: str) -> None:
    problems = root_problems(certificate, key, current=CURRENT.pem, now=SystemClock().wall())
    if not reason:
        assert problems == ()
        return
    assert any(reason in problem.reason for problem in problems)
    assert not any("PRIVATE" in problem.value for problem in problems)
