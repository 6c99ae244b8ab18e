"""How a node gets its identity, decided from what lies in its state directory and what its user asked for.

Called once at start by the shell, which then does what the plan says. What must stay true: files that are there are used, finished or
refused with a reason, never silently replaced.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Which files are there."""

    root_certificate: bool = False
    root_key: bool = False
    node_certificate: bool = False
    node_key: bool = False
    store: bool = False
    """True when ``raft/`` has content."""
    root_digest: str = ""
    """Digest of the root bundle, when there is one."""
    former_digests: frozenset[str] = frozenset()
    """Of the roots that the cluster had before; a join token that was given once may name one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Use the identity on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Make a new cluster of this node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Become a node of the cluster that the token names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Change nothing and say why."""

    reason: str


IdentityPlan = Load | Bootstrap | Join | Refuse

EMPTY_IT = "start with an empty state directory, or bring the missing file back"


def plan_identity(found: Found, *, token_digest: str) -> IdentityPlan:
    """Return what to do; ``token_digest`` is that of the join token, empty without one."""
    known = {"", found.root_digest, *found.former_digests}
    if found.root_certificate and token_digest not in known:
        return Refuse(reason="this state directory belongs to another cluster than the join token")
    if found.node_certificate:
        return _whole(found)
    if found.store:
        return Refuse(reason=f"raft/ holds a store, but certificates/swarm-node.crt is missing: {EMPTY_IT}")
    if token_digest:
        if found.root_key:
            return Refuse(reason="certificates/swarm-root-ca.key is the root of a new cluster: it cannot join another")
        return Join()
    if found.root_certificate and not found.root_key:
        return Refuse(
            reason="certificates/ has a root but no identity of this node: a join was cut short, give --join-addr and "
            "--join-token again"
        )
    return Bootstrap()


def lost_store(found: Found, *, is_manager: bool, knows_others: bool) -> str:
    """Return why a node with an identity cannot go on without its store, empty when it can.

    A manager that was cut off before it had a store gets one: the first of a cluster still has the root's key, others know managers to join.
    """
    if not is_manager or found.store or found.root_key or knows_others:
        return ""
    return (
        "raft/ is empty although this node is a manager, and no other manager is known: starting would make an empty cluster under the "
        "name of the old one. Bring raft/ back, or bring back state.json if there are other managers"
    )


def cannot_force(plan: IdentityPlan, *, is_manager: bool) -> str:
    """Return why a new cluster cannot be forced from this directory, empty when it can or when there is no cluster yet."""
    match plan:
        case Join():
            return "there is no cluster in this state directory that --force-new-cluster could go on with: leave it out to join one"
        case Load() if not is_manager:
            return "--force-new-cluster needs the state directory of a manager, and this node is a worker"
        case _:
            return ""


def _whole(found: Found) -> IdentityPlan:
    missing = [
        name
        for name, there in (("swarm-node.key", found.node_key), ("swarm-root-ca.crt", found.root_certificate))
        if not there
    ]
    if missing:
        return Refuse(reason=f"certificates/swarm-node.crt is there without {' and '.join(missing)}: {EMPTY_IT}")
    return Load()
