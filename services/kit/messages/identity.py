"""Identity: how a machine becomes a node. Answered by the ca process (the join door by the gateway).

The join door answers any connection with one fixed ``DoorReply``, before any authentication; everything in it is public. The
joiner checks the digest in its token against ``roots``, then dials CURVE with the key it wants certified and calls ``ISSUE``.
"""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, NODES, OPEN, Call, Empty, Owner
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Availability, Role
from services.kit.model.value import Value


class DoorReply(Value, frozen=True, kw_only=True):
    """What a joiner may know before it is known."""

    roots: bytes
    """The root bundle, PEM; the token's digest is over exactly these bytes."""
    managers: tuple[ManagerPeer, ...]


class Bootstrap(Value, frozen=True, kw_only=True):
    """The supervisor of a first node asks its own ca for a new cluster."""

    public_key: bytes
    node_id: NodeId
    cluster_id: ClusterId


class Issued(Value, frozen=True, kw_only=True):
    """A certificate and what it hangs on."""

    node_id: NodeId
    cluster_id: ClusterId
    role: Role
    certificate: bytes
    """PEM: leaf, then intermediates."""
    roots: bytes
    """PEM bundle."""


class IssueRequest(Value, frozen=True, kw_only=True):
    """A caller without certificate shows a join token. The key that is certified is the one CURVE authenticated."""

    token: str
    availability: Availability = Availability.ACTIVE
    request_id: str = ""
    """The same id asked twice gets the same node, so that a lost answer makes no ghost."""
    remote_addr: str = ""
    """Advertised remote API of a joining manager."""


class RenewRequest(Value, frozen=True, kw_only=True):
    """A node asks for a fresh certificate for the key it speaks with; its role is the observed one."""

    remote_addr: str = ""


BOOTSTRAP = Call(name="identity.bootstrap", request=Bootstrap, reply=Issued, owner=Owner.CA)
ISSUE = Call(name="identity.issue", request=IssueRequest, reply=Issued, owner=Owner.CA, roles=OPEN, leader=True)
RENEW = Call(
    name="identity.renew", request=RenewRequest, reply=Issued, owner=Owner.CA, roles=NODES, leader=True, idempotent=True
)


class ReturnRequest(Value, frozen=True, kw_only=True):
    """A node whose certificate ran out while it was off asks for a fresh one; it is known by the key that it speaks with."""

    remote_addr: str = ""


RETURN = Call(
    name="identity.return",
    request=ReturnRequest,
    reply=Issued,
    owner=Owner.CA,
    roles=OPEN,
    leader=True,
    idempotent=True,
    timeout_s=5.0,
)


class InstalledRequest(Value, frozen=True, kw_only=True):
    """A node says that it uses its newest certificate, so that a rotation of the root can go on."""

    issuer: bytes
    """Key that signed the certificate in use, DER SubjectPublicKeyInfo."""


INSTALLED = Call(
    name="identity.installed",
    request=InstalledRequest,
    reply=Empty,
    owner=Owner.CA,
    roles=NODES,
    leader=True,
    idempotent=True,
)


class IssueTlsRequest(Value, frozen=True, kw_only=True):
    """A node asks for a second certificate, for TLS between gateways: its own key can only agree on keys, as CURVE does."""

    public_key: bytes
    """ECDSA P-256, DER SubjectPublicKeyInfo; the private key never leaves the node."""


class IssuedTls(Value, frozen=True, kw_only=True):
    """A certificate with the node's names and role, for an ordinary TLS client and server."""

    certificate: bytes
    """PEM."""
    roots: bytes
    """PEM bundle."""
    not_after: float


ISSUE_TLS = Call(
    name="identity.issue_tls",
    request=IssueTlsRequest,
    reply=IssuedTls,
    owner=Owner.CA,
    roles=NODES,
    leader=True,
    idempotent=True,
)


class UnlockKeyRequest(Value, frozen=True, kw_only=True):
    """A manager asks for the key that seals its state."""


class UnlockKeyReply(Value, frozen=True, kw_only=True):
    """Empty when managers start unlocked."""

    unlock_key: str = ""


UNLOCK_KEY = Call(
    name="identity.unlock_key",
    request=UnlockKeyRequest,
    reply=UnlockKeyReply,
    owner=Owner.CA,
    roles=MANAGERS,
    leader=True,
    idempotent=True,
)

METHODS = (BOOTSTRAP, ISSUE, RENEW, RETURN, INSTALLED, ISSUE_TLS, UNLOCK_KEY)
