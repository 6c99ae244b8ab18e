"""A certificate authority for tests: signs node certificates as the ca process does, and wrong ones on request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID

from services.kit.bus.identity import Identity, NodeKey, new_key
from services.kit.messages.method import MANAGER, WORKER
from services.kit.runtime.clock import SystemClock

CLUSTER = "cluster-1"


class Authority:
    """A root, or an intermediate of another authority."""

    def __init__(
        self, name: str = "swarm-ca", *, issuer: Authority | None = None, ca: bool = True, days: float = 7300
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.issuer = issuer
        builder = _builder(self.name, (issuer or self).name, self.key.public_key(), days=days)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        self.certificate = builder.sign((issuer or self).key, hashes.SHA256())

    @cached_property
    def pem(self) -> bytes:
        """The certificate itself."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        node_id: str = "node",
        role: str = WORKER,
        cluster: str = CLUSTER,
        *,
        public_key: bytes,
        days: float = 90,
        starts_in_days: float = -1,
    ) -> bytes:
        """Certify a key; the intermediates follow the leaf."""
        names = {
            NameOID.COMMON_NAME: node_id,
            NameOID.ORGANIZATIONAL_UNIT_NAME: role,
            NameOID.ORGANIZATION_NAME: cluster,
        }
        subject = x509.Name([x509.NameAttribute(oid, name) for oid, name in names.items() if name])
        key = x25519.X25519PublicKey.from_public_bytes(public_key)
        builder = _builder(subject, self.name, key, days=days, starts_in_days=starts_in_days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        leaf = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return leaf + (self.pem if self.issuer is not None else b"")

    def identity(
        self,
        node_id: str = "node",
        role: str = WORKER,
        cluster: str = CLUSTER,
        *,
        key: NodeKey | None = None,
        roots: bytes = b"",
        days: float = 90,
    ) -> Identity:
        """Make a whole identity."""
        key = key or new_key()
        certificate = self.issue(node_id, role, cluster, public_key=key.public, days=days)
        return Identity(key, certificate, roots or self.root_pem)

    def manager(self, node_id: str = "manager-1", cluster: str = CLUSTER) -> Identity:
        """Make a manager."""
        return self.identity(node_id, MANAGER, cluster)

    def worker(self, node_id: str = "worker-1", cluster: str = CLUSTER) -> Identity:
        """Make a worker."""
        return self.identity(node_id, WORKER, cluster)

    @property
    def root_pem(self) -> bytes:
        """The root above this authority."""
        return self.issuer.root_pem if self.issuer is not None else self.pem


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | x25519.X25519PublicKey,
    *,
    days: float,
    starts_in_days: float = -1,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(SystemClock().wall(), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=min(starts_in_days, days - 1)))
        .not_valid_after(now + timedelta(days=days))
    )


def web_certificate(*names: str) -> bytes:
    """Return a certificate for these names that vouches for itself, and its key, as one PEM text."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else "any")])
    builder = _builder(subject, subject, key.public_key(), days=30)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private
