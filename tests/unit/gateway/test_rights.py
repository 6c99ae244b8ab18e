"""Every method of the registry against every kind of caller, through both doors."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.core.rights import Allowed, Door, Policy, Refused, Who, decide
from services.kit.errors import PermissionDenied, Unauthenticated
from services.kit.messages.method import ANYONE, MANAGER, WORKER
from services.kit.messages.registry import METHODS

CLUSTER = "c1"
POLICY = Policy(
    me=Who(node_id="me", role=MANAGER, cluster_id=CLUSTER, public_key=b"me"),
    revoked=frozenset({b"gone", b"gone-manager"}),
)
STRANGER = Who(public_key=b"stranger")
WORKING = Who(node_id="w1", role=WORKER, cluster_id=CLUSTER, public_key=b"w1")
MANAGING = Who(node_id="m1", role=MANAGER, cluster_id=CLUSTER, public_key=b"m1")
REMOVED = Who(node_id="w2", role=WORKER, cluster_id=CLUSTER, public_key=b"gone")
REMOVED_MANAGER = Who(node_id="m2", role=MANAGER, cluster_id=CLUSTER, public_key=b"gone-manager")
ELSEWHERE = Who(node_id="m9", role=MANAGER, cluster_id="c9", public_key=b"m9")

YES = Allowed
NO = PermissionDenied
WHO = Unauthenticated

# Per set of roles: what each direct caller gets at the remote API.
DIRECT: dict[frozenset[str], dict[Who, type]] = {
    frozenset(): {STRANGER: NO, WORKING: NO, MANAGING: NO, REMOVED: NO, REMOVED_MANAGER: NO, ELSEWHERE: NO},
    frozenset({MANAGER}): {
        STRANGER: WHO, WORKING: NO, MANAGING: YES, REMOVED: NO, REMOVED_MANAGER: NO, ELSEWHERE: NO,
    },
    frozenset({MANAGER, WORKER}): {
        STRANGER: WHO, WORKING: YES, MANAGING: YES, REMOVED: NO, REMOVED_MANAGER: NO, ELSEWHERE: NO,
    },
    frozenset({ANYONE}): {
        STRANGER: YES, WORKING: YES, MANAGING: YES, REMOVED: NO, REMOVED_MANAGER: NO, ELSEWHERE: NO,
    },
}  # fmt: skip


def decision(
    method: Any, peer: Who, stamp: Who | None = None, *, forwarded: bool = False, door: Door = Door.REMOTE
) -> Allowed | Refused:
    return decide(method.name, method.roles, door=door, peer=peer, stamp=stamp, forwarded=forwarded, policy=POLICY)


def outcome(decided: Allowed | Refused) -> type:
    return Allowed if isinstance(decided, Allowed) else type(decided.error)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_direct_caller_gets_what_its_role_allows(method: Any) -> None:
    for peer, expected in DIRECT[method.roles].items():
        decided = decision(method, peer)
        assert outcome(decided) is expected, f"{method.name} for {peer}"
        if isinstance(decided, Allowed):
            assert decided.who == peer
            assert not decided.forwarded


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_forwarded_caller_gets_what_its_own_role_allows(method: Any) -> None:
    for stamp, expected in DIRECT[method.roles].items():
        decided = decision(method, MANAGING, stamp, forwarded=True)
        assert outcome(decided) is expected, f"{method.name} for {stamp}"
        if isinstance(decided, Allowed):
            assert decided.who == stamp
            assert decided.forwarded


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_forged_stamp_is_refused(method: Any) -> None:
    for forger in (STRANGER, WORKING, REMOVED, REMOVED_MANAGER, ELSEWHERE):
        for forwarded in (True, False):
            assert outcome(decision(method, forger, MANAGING, forwarded=forwarded)) is PermissionDenied
    assert outcome(decision(method, MANAGING, WORKING, forwarded=False)) is PermissionDenied


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_operator_of_a_manager_acts_as_this_manager(method: Any) -> None:
    for stamp in (None, WORKING, ELSEWHERE):
        decided = decision(method, Who(), stamp, forwarded=True, door=Door.LOCAL)
        assert outcome(decided) is (Allowed if MANAGER in method.roles else PermissionDenied)
        if isinstance(decided, Allowed):
            assert decided.who == Who(node_id="me", role=MANAGER, cluster_id=CLUSTER)
            assert not decided.forwarded


def test_a_worker_cannot_mark_its_call_as_forwarded() -> None:
    method = next(method for method in METHODS if method.roles >= {WORKER, MANAGER})
    decided = decision(method, WORKING, forwarded=True)
    assert decided == Allowed(who=WORKING, forwarded=False)
