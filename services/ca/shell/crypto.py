"""Making and signing certificates: the only place of the product that holds a root key and signs with it.

Root: ECDSA P-256, self-signed, CN ``swarm-ca``. Nodes: the X25519 key that speaks CURVE, CN = node id, OU = role, O = cluster id,
for key agreement only (RFC 8410); for TLS between gateways each has a second certificate, for a P-256 key. Dates go back an hour, so that a peer whose clock is late accepts them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.ca.core.issuance import Root, Signed
from services.kit.errors import DataLoss, InvalidArgument, Problem
from services.kit.messages.method import MANAGER, WORKER
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.states import Role

ROOT_NAME = "swarm-ca"
ROOT_VALIDITY_S = 630_720_000.0
"""20 years."""
BACK_DATED_S = 3600.0
RootKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
ROLE_UNITS = {Role.MANAGER: MANAGER, Role.WORKER: WORKER}


def make_root(now: float, key_pem: bytes = b"") -> Root:
    """Return a fresh root, or a fresh certificate for the root key of a start that was cut short."""
    key = _load_key(key_pem) if key_pem else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ROOT_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - BACK_DATED_S))
        .not_valid_after(_moment(now + ROOT_VALIDITY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Root(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=key_bytes)


def cross_sign(old: Root, new: Root, now: float) -> bytes:
    """Return the new root's name and key as an intermediate under the old root, PEM: who trusts the old one trusts what hangs on the new one."""
    signer = Signer(old)
    root = x509.load_pem_x509_certificate(new.certificate)
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey), "checked before a rotation begins"
    certificate = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(signer.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - BACK_DATED_S))
        .not_valid_after(min(root.not_valid_after_utc, signer.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_of(certificate: bytes) -> bytes:
    """Return the public key in a PEM certificate, DER."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def is_issued_by(chain: bytes, root: bytes) -> bool:
    """Tell whether the first certificate of a chain was signed by this root itself."""
    leaf = x509.load_pem_x509_certificates(chain)[0]
    try:
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(root))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


class Signs(Protocol):
    """Whoever signs node certificates under one root."""

    root: Root

    def sign(
        self, *, public_key: bytes, node_id: NodeId, cluster_id: ClusterId, role: Role, validity_s: float, now: float
    ) -> Signed:
        """Certify a node's 32-byte key."""

    def sign_tls(
        self, *, public_key: bytes, node_id: NodeId, cluster_id: ClusterId, role: Role, validity_s: float, now: float
    ) -> Signed:
        """Certify a node's P-256 key for TLS between gateways; raises InvalidArgument when it is no such key."""


class Signer:
    """Signs node certificates under one root."""

    def __init__(self, root: Root) -> None:
        """Raise DataLoss unless certificate and key belong together."""
        self.key = _load_key(root.key)
        try:
            self.certificate = x509.load_pem_x509_certificate(root.certificate)
        except ValueError as error:
            raise DataLoss(f"the root certificate cannot be read: {error}") from None
        if self.certificate.public_key() != self.key.public_key():
            raise DataLoss("the root key does not belong to the root certificate")
        self.root = root

    def sign(
        self, *, public_key: bytes, node_id: NodeId, cluster_id: ClusterId, role: Role, validity_s: float, now: float
    ) -> Signed:
        """Certify a node's 32-byte key; the certificate never outlives the root."""
        names = (node_id, ROLE_UNITS[role], ROOT_NAME) if role is Role.MANAGER else (node_id, ROLE_UNITS[role])
        key = x25519.X25519PublicKey.from_public_bytes(public_key)
        usage = _usage(sign_certificates=False)
        certificate, ends = self._certify(key, usage, names, (node_id, role, cluster_id), validity_s, now)
        return Signed(
            node_id=node_id, role=role, public_key=public_key, certificate=certificate, not_after=ends.timestamp()
        )

    def sign_tls(
        self, *, public_key: bytes, node_id: NodeId, cluster_id: ClusterId, role: Role, validity_s: float, now: float
    ) -> Signed:
        """Certify a node's P-256 key for TLS between gateways; raises InvalidArgument when it is no such key."""
        key = _load_tls_key(public_key)
        usage = _usage(sign_certificates=False, sign_handshakes=True)
        certificate, ends = self._certify(key, usage, (node_id,), (node_id, role, cluster_id), validity_s, now)
        return Signed(
            node_id=node_id, role=role, public_key=public_key, certificate=certificate, not_after=ends.timestamp()
        )

    def _certify(
        self,
        key: x25519.X25519PublicKey | ec.EllipticCurvePublicKey,
        usage: x509.KeyUsage,
        names: tuple[str, ...],
        subject: tuple[NodeId, Role, ClusterId],
        validity_s: float,
        now: float,
    ) -> tuple[bytes, datetime]:
        """Return a certificate, PEM, and when it ends: never after the root."""
        node_id, role, cluster_id = subject
        root_ends = self.certificate.not_valid_after_utc
        ends = min(_moment(now + validity_s), root_ends)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(node_id, ROLE_UNITS[role], cluster_id))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_moment(now - min(BACK_DATED_S, validity_s)))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + self.root.intermediates, ends


def _subject(node_id: NodeId, unit: str, cluster_id: ClusterId) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, node_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
        ]
    )


def _usage(*, sign_certificates: bool, sign_handshakes: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign_handshakes,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not sign_certificates and not sign_handshakes,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(pem: bytes) -> RootKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise DataLoss(f"the root key cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise DataLoss("the root key is neither an elliptic curve key nor an RSA key")
    return key


def _load_tls_key(der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        problem = Problem(path="public_key", reason="is not an ECDSA P-256 key", value=f"{len(der)} bytes")
        raise InvalidArgument.of((problem,))
    return key


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
