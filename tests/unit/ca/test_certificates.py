"""Certificates as the ca makes them, read with the eyes of the bus and of any X.509 tool."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.ca.core.issuance import Root, Signed
from services.ca.shell.crypto import BACK_DATED_S, ROOT_VALIDITY_S, Signer, make_root
from services.kit.bus.identity import Identity, NodeKey, new_key
from services.kit.errors import DataLoss
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.states import Role

NOW = 1_800_000_000.0
NODE = NodeId("n" * 25)
CLUSTER = ClusterId("c" * 25)
DAY_S = 86_400.0


def signed(root: Root, key: NodeKey, role: Role = Role.WORKER, validity_s: float = 90 * DAY_S) -> Signed:
    return Signer(root).sign(
        public_key=key.public, node_id=NODE, cluster_id=CLUSTER, role=role, validity_s=validity_s, now=NOW
    )


def test_the_root_is_a_p256_key_for_twenty_years() -> None:
    root = x509.load_pem_x509_certificate(make_root(NOW).certificate)
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert root.subject == root.issuer
    assert root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "swarm-ca"
    lifetime_s = (root.not_valid_after_utc - root.not_valid_before_utc).total_seconds()
    assert lifetime_s == ROOT_VALIDITY_S + BACK_DATED_S


@pytest.mark.parametrize("role", Role)
def test_a_node_certificate_names_node_role_and_cluster_and_works_on_the_bus(role: Role) -> None:
    root, key = make_root(NOW), new_key()
    result = signed(root, key, role)
    node = Identity(key, result.certificate, root.certificate)
    assert (node.node_id, node.role, node.cluster_id) == (NODE, f"swarm-{role.value}", CLUSTER)
    assert node.not_before == NOW - BACK_DATED_S
    assert node.not_after == result.not_after == NOW + 90 * DAY_S
    assert node.check(result.certificate, key.public, now=NOW).node_id == NODE


def test_only_a_manager_answers_to_the_name_of_the_ca() -> None:
    root = make_root(NOW)
    for role, names in (
        (Role.WORKER, [NODE, "swarm-worker"]),
        (Role.MANAGER, [NODE, "swarm-manager", "swarm-ca"]),
    ):
        certificate = x509.load_pem_x509_certificate(signed(root, new_key(), role).certificate)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert extension.value.get_values_for_type(x509.DNSName) == names


def test_a_node_certificate_is_for_key_agreement_and_signs_nothing() -> None:
    certificate = x509.load_pem_x509_certificate(signed(make_root(NOW), new_key()).certificate)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_agreement
    assert not usage.key_cert_sign
    assert not usage.digital_signature
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_no_certificate_outlives_its_root() -> None:
    root = make_root(NOW)
    assert signed(root, new_key(), validity_s=2 * ROOT_VALIDITY_S).not_after == NOW + ROOT_VALIDITY_S


def test_a_root_made_again_for_a_left_key_has_that_key() -> None:
    first = make_root(NOW)
    again = make_root(NOW + 5, first.key)
    assert again.key == first.key
    key = new_key()
    assert Identity(key, signed(again, key).certificate, again.certificate).node_id == NODE


@pytest.mark.parametrize(
    "root",
    [
        Root(certificate=make_root(NOW).certificate, key=make_root(NOW).key),
        Root(certificate=b"junk", key=make_root(NOW).key),
        Root(certificate=make_root(NOW).certificate, key=b"junk"),
    ],
    ids=["other key", "junk certificate", "junk key"],
)
def test_a_root_whose_halves_do_not_fit_is_damaged(root: Root) -> None:
    with pytest.raises(DataLoss):
        Signer(root)
