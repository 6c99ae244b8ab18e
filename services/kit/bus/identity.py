"""Who a node is: its key, its certificate, the roots it trusts; and the check of other nodes' certificates.

The node's key is an X25519 key: the very key that CURVE proves. Its certificate is issued by the ca process (nothing is signed here): CN is
the node id, OU the role, O the cluster. Used by ``kit.bus.zmq`` for every connection, by the supervisor to write the files and by the ca
to read its own identity. What must stay true: a certificate counts only together with the key that its bearer proved to have.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.x509.oid import ExtensionOID, NameOID

from services.kit.bus.api import Caller
from services.kit.errors import DataLoss, NotFound, PermissionDenied, SwarmError, Unauthenticated
from services.kit.runtime.files import make_directory, write_atomic

ROOTS_FILE = "swarm-root-ca.crt"
CERTIFICATE_FILE = "swarm-node.crt"
KEY_FILE = "swarm-node.key"
CHAIN_LENGTH_MAX = 4
CERTIFICATES_MAX = 8
"""More certificates in one PEM than this are refused."""
_CHECKED_MAX = 20_000
"""Checked certificates that are remembered; more than any fleet has nodes, so that forgetting all of them is rare."""
_DIRECTORY_MODE = 0o755
_PUBLIC_MODE = 0o644
_SECRET_MODE = 0o600
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises on certificates that are not what they should be."""


@dataclass(frozen=True, slots=True)
class NodeKey:
    """An X25519 key pair, as raw bytes."""

    secret: bytes = field(repr=False)
    public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Certified:
    """What a certificate says that hangs on a trusted root."""

    caller: Caller
    not_before: float
    not_after: float
    issuer: bytes
    """Key that signed the leaf, DER."""


def new_key() -> NodeKey:
    """Make a fresh node key."""
    return _node_key(X25519PrivateKey.generate())


class Identity:
    """One node's identity. Immutable; a renewed certificate makes a new one."""

    def __init__(self, key: NodeKey, certificate: bytes, roots: bytes) -> None:
        """Raise DataLoss when the files do not belong together."""
        self.key = key
        self.certificate = certificate
        """PEM: leaf, then intermediates; empty while the machine is joining."""
        self.roots = roots
        """PEM bundle."""
        self._roots = _read_pem(roots, "the root bundle")
        self._checked: dict[bytes, _Certified] = {}
        self.node_id = ""
        self.role = ""
        self.cluster_id = ""
        self.not_before = 0.0
        self.not_after = 0.0
        self.issuer = b""
        """Key that signed the certificate, DER."""
        if certificate:
            self._take(certificate)

    @classmethod
    def joining(cls, roots: bytes, key: NodeKey | None = None) -> Identity:
        """Return the identity of a machine that has no certificate yet."""
        return cls(key or new_key(), b"", roots)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that CURVE proves."""
        return self.key.public

    def check(self, certificate: bytes, public_key: bytes, *, now: float, grace_s: float = 0.0) -> Caller:
        """Return whom a certificate names, for a bearer who proved ``public_key``; raises Unauthenticated or PermissionDenied.

        ``now`` is wall time; a certificate may have run out ``grace_s`` ago. A joining machine does not know its cluster yet and accepts any that its roots vouch for.
        """
        digest = sha256(certificate).digest()
        certified = self._checked.get(digest)
        if certified is None:
            certified = _verify(_read_peer(certificate), self._roots)
            if len(self._checked) >= _CHECKED_MAX:
                self._checked.clear()
            self._checked[digest] = certified
        caller = certified.caller
        if caller.public_key != public_key:
            raise Unauthenticated("the certificate is for another key")
        if now > certified.not_after + grace_s:
            raise Unauthenticated(f"the certificate of {caller.node_id} has expired")
        if now < certified.not_before:
            raise Unauthenticated(f"the certificate of {caller.node_id} is not valid yet: are the clocks right?")
        if self.cluster_id and caller.cluster_id != self.cluster_id:
            raise PermissionDenied(f"{caller.node_id} belongs to another cluster")
        return caller

    @staticmethod
    def key_in(certificate: bytes) -> bytes:
        """Return the raw X25519 key of another node's PEM certificate, unchecked; raises Unauthenticated."""
        leaf = _read_peer(certificate)[0]
        try:
            return _public_key(leaf)
        except _UNREADABLE as error:
            raise Unauthenticated(f"the certificate cannot be read: {error}") from None

    def _take(self, certificate: bytes) -> None:
        try:
            mine = _verify(_read_peer(certificate), self._roots)
        except SwarmError as error:
            raise DataLoss(f"this node's own certificate is not usable: {error}") from None
        if mine.caller.public_key != self.key.public:
            raise DataLoss("this node's certificate does not belong to its key")
        self.node_id = mine.caller.node_id
        self.role = mine.caller.role
        self.cluster_id = mine.caller.cluster_id
        self.not_before = mine.not_before
        self.not_after = mine.not_after
        self.issuer = mine.issuer


def load_identity(directory: Path | str) -> Identity:
    """Return the identity in a certificates directory; raises NotFound when there is none and DataLoss when it is damaged.

    A swap of key and certificate that was cut short is finished.
    """
    directory = Path(directory)
    key = _node_key(_load_secret(directory / KEY_FILE))
    roots = _read(directory / ROOTS_FILE)
    temporary = directory / f".{CERTIFICATE_FILE}"
    if temporary.exists():
        try:
            fresh = Identity(key, _read(temporary), roots)
        except (DataLoss, NotFound):
            return Identity(key, _read(directory / CERTIFICATE_FILE), roots)
        _move_into_place(temporary, directory / CERTIFICATE_FILE)
        return fresh
    return Identity(key, _read(directory / CERTIFICATE_FILE), roots)


def save_roots(directory: Path, roots: bytes) -> None:
    """Write the root bundle."""
    make_directory(directory, mode=_DIRECTORY_MODE)
    write_atomic(directory / ROOTS_FILE, roots, mode=_PUBLIC_MODE)


def save_node(directory: Path, key: NodeKey, certificate: bytes) -> None:
    """Replace key and certificate so that a reader after a crash finds the old pair or the new pair.

    The certificate goes to a temporary name, the key to its own, then the certificate follows; a reader takes the temporary certificate when
    it belongs to the key.
    """
    make_directory(directory, mode=_DIRECTORY_MODE)
    temporary = directory / f".{CERTIFICATE_FILE}"
    write_atomic(temporary, certificate, mode=_PUBLIC_MODE)
    secret = X25519PrivateKey.from_private_bytes(key.secret).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(directory / KEY_FILE, secret, mode=_SECRET_MODE)
    _move_into_place(temporary, directory / CERTIFICATE_FILE)


def _move_into_place(temporary: Path, final: Path) -> None:
    """Finish the swap; another process of this node may have been faster."""
    with contextlib.suppress(FileNotFoundError):
        temporary.replace(final)


def _node_key(key: X25519PrivateKey) -> NodeKey:
    raw = serialization.Encoding.Raw
    secret = key.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    return NodeKey(secret, key.public_key().public_bytes(raw, serialization.PublicFormat.Raw))


def _load_secret(path: Path) -> X25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataLoss(f"{path} cannot be read as a key: {error}") from None
    if not isinstance(key, X25519PrivateKey):
        raise DataLoss(f"{path} holds a key of another kind than X25519")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} is missing") from None


def _read_pem(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except _UNREADABLE:
        raise DataLoss(f"{what} is not a list of PEM certificates") from None


def _read_peer(pem: bytes) -> list[x509.Certificate]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what the library merely tolerates is refused
            certificates = x509.load_pem_x509_certificates(pem)
    except (*_UNREADABLE, Warning):
        raise Unauthenticated("the certificate cannot be read") from None
    if len(certificates) > CERTIFICATES_MAX:
        raise Unauthenticated("too many certificates in one chain")
    return certificates


def _verify(chain: list[x509.Certificate], roots: Sequence[x509.Certificate]) -> _Certified:
    """Find a way from the leaf to a root and return what the leaf says, valid as long as the whole way is."""
    leaf, *others = chain
    try:
        way = _find_way([leaf], others, roots)
        if way is None:
            raise Unauthenticated("the certificate does not hang on this cluster's root")
        caller = Caller(
            node_id=_name(leaf, NameOID.COMMON_NAME),
            role=_name(leaf, NameOID.ORGANIZATIONAL_UNIT_NAME),
            cluster_id=_name(leaf, NameOID.ORGANIZATION_NAME),
            public_key=_public_key(leaf),
        )
    except _UNREADABLE as error:
        raise Unauthenticated(f"the certificate cannot be read: {error}") from None
    if not caller.node_id or not caller.role or not caller.cluster_id:
        raise Unauthenticated("the certificate does not name node, role and cluster")
    return _Certified(
        caller=caller,
        not_before=max(step.not_valid_before_utc.timestamp() for step in way),
        not_after=min(step.not_valid_after_utc.timestamp() for step in way),
        issuer=way[1]
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def _find_way(
    way: list[x509.Certificate], others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> list[x509.Certificate] | None:
    last = way[-1]
    if any(extension.critical and extension.oid not in _UNDERSTOOD for extension in last.extensions):
        return None
    for root in roots:
        if _issued_by(last, root, below=len(way) - 1):
            return [*way, root]
    if len(way) >= CHAIN_LENGTH_MAX:
        return None
    for other in others:
        if other not in way and _issued_by(last, other, below=len(way) - 1):
            found = _find_way([*way, other], others, roots)
            if found is not None:
                return found
    return None


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate, *, below: int) -> bool:
    """Tell whether the issuer may sign, has ``below`` intermediates under it at most, and did sign."""
    extensions = {extension.oid: extension.value for extension in issuer.extensions}
    constraints = extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        return False
    if constraints.path_length is not None and constraints.path_length < below:
        return False
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*_UNREADABLE, InvalidSignature):
        return False
    return True


def _name(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    attributes = certificate.subject.get_attributes_for_oid(oid)
    if len(attributes) != 1 or not isinstance(attributes[0].value, str):
        return ""
    return attributes[0].value


def _public_key(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    if not isinstance(key, X25519PublicKey):
        raise Unauthenticated("the certificate holds a key of another kind than X25519")
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
