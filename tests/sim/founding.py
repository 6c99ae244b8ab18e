"""Identities without chance: certificates that are the same in every run of a seed.

The first manager's files are real ones (its ca reads them), signed with Ed25519, which draws no random numbers. What the simulated ca signs
later is only ever handed around; the in-memory bus says who somebody is without certificates.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID

from services.ca.core.issuance import Root, Signed
from services.ca.shell.keystore import ROOT_KEY
from services.kit.bus.identity import NodeKey, save_node, save_roots
from services.kit.messages.method import MANAGER
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.states import Role
from services.kit.runtime.files import write_atomic

CLUSTER = ClusterId("simulatedcluster000000000")
_BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
_END = datetime(2090, 1, 1, tzinfo=UTC)


class SimSigner:
    """Signs for the simulated ca (``ca.shell.crypto.Signs``)."""

    def __init__(self, root: Root) -> None:
        self.root = root

    def sign(
        self, *, public_key: bytes, node_id: NodeId, cluster_id: ClusterId, role: Role, validity_s: float, now: float
    ) -> Signed:
        """Write down who it is."""
        text = f"{node_id} {role.value} {public_key.hex()}".encode()
        return Signed(
            node_id=node_id, role=role, public_key=public_key, certificate=text, not_after=float(int(now + validity_s))
        )

    sign_tls = sign


def found(directory: Path, node_id: NodeId, secret: bytes) -> tuple[bytes, bytes]:
    """Write the files of a first manager; returns its certificate and public key."""
    root_key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    node_key = X25519PrivateKey.from_private_bytes(secret)
    raw = serialization.Encoding.Raw
    public = node_key.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
    root = (
        _builder(root_name, root_name)
        .public_key(root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .sign(root_key, None)
    )
    names = {
        NameOID.COMMON_NAME: node_id,
        NameOID.ORGANIZATIONAL_UNIT_NAME: MANAGER,
        NameOID.ORGANIZATION_NAME: CLUSTER,
    }
    subject = x509.Name([x509.NameAttribute(oid, name) for oid, name in names.items()])
    leaf = (
        _builder(subject, root_name)
        .public_key(node_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(root_key, None)
    )
    pem = serialization.Encoding.PEM
    certificate = leaf.public_bytes(pem)
    save_roots(directory, root.public_bytes(pem))
    save_node(directory, NodeKey(secret, public), certificate)
    write_atomic(
        directory / ROOT_KEY,
        root_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return certificate, public


def _builder(subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(1)
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
    )
