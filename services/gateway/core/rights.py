"""Who may call what through the gateway: the one table of rights, computed from the method's declaration.

Asked by the doors for every request, on top of what the bus has checked (the certificate belongs to the key that speaks). What must
stay true: what is not allowed is refused; a caller's word about somebody else counts only when a manager forwards; a removed node
has no rights, whoever speaks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from services.kit.errors import PermissionDenied, SwarmError, Unauthenticated
from services.kit.messages.method import ANYONE, MANAGER


class Door(Enum):
    """Where a request came in."""

    REMOTE = auto()
    """The remote API: the peer's key is proven, and its certificate if it has one."""
    LOCAL = auto()
    """A socket of this node in a directory that only its user can enter: the user is the operator of this node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """A caller as far as rights go."""

    node_id: str = ""
    role: str = ""
    cluster_id: str = ""
    public_key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What rights depend on besides the request."""

    me: Who
    """This node."""
    revoked: frozenset[bytes] = frozenset()
    """Keys of removed nodes whose certificates have not run out yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The call may go on, in the name of ``who``."""

    who: Who
    forwarded: bool = False
    """It came from the gateway of another manager and goes no further than this node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The call may not go on."""

    error: SwarmError


def decide(
    name: str, roles: frozenset[str], *, door: Door, peer: Who, stamp: Who | None, forwarded: bool, policy: Policy
) -> Allowed | Refused:
    """Return whether a method with these roles may be called, and in whose name.

    ``stamp`` is whom the peer says it speaks for; ``forwarded`` whether it says that it forwards another's call.
    """
    if not roles:
        return Refused(error=PermissionDenied(f"{name} is between the processes of one node"))
    if door is Door.LOCAL:
        return _decide_local(name, roles, policy)
    refusal = _refuse_identity(peer, policy)
    if refusal is not None:
        return refusal
    who = peer
    if stamp is not None:
        if peer.role != MANAGER or not forwarded:
            return Refused(error=PermissionDenied("only a manager that forwards may speak for another"))
        who = stamp
        refusal = _refuse_identity(who, policy)
        if refusal is not None:
            return refusal
    if ANYONE in roles or who.role in roles:
        return Allowed(who=who, forwarded=forwarded and peer.role == MANAGER)
    if not who.role:
        return Refused(error=Unauthenticated(f"{name} needs a node certificate"))
    return Refused(error=PermissionDenied(f"{name} is not open to a {who.role}"))


def _decide_local(name: str, roles: frozenset[str], policy: Policy) -> Allowed | Refused:
    """The operator of a manager acts as this manager; there is no key here that a certificate could be issued for."""
    if MANAGER not in roles:
        return Refused(error=PermissionDenied(f"{name} is not for the control socket: it needs the caller's own key"))
    return Allowed(who=replace(policy.me, public_key=b""))


def _refuse_identity(who: Who, policy: Policy) -> Refused | None:
    if who.public_key in policy.revoked:
        return Refused(error=PermissionDenied(f"node {who.node_id or 'of this key'} was removed from the swarm"))
    if who.role and who.cluster_id != policy.me.cluster_id:
        return Refused(error=PermissionDenied(f"{who.node_id} belongs to another cluster"))
    return None
