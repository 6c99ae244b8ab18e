"""Where a node's identity comes from, by what lies in its state directory: used, finished or refused, never replaced."""

from __future__ import annotations

from itertools import product

import pytest

from services.supervisor.core.identity import (
    Bootstrap,
    Found,
    IdentityPlan,
    Join,
    Load,
    Refuse,
    cannot_force,
    lost_store,
    plan_identity,
)

WHOLE = Found(root_certificate=True, node_certificate=True, node_key=True, root_digest="ours")


def plan(found: Found, token_digest: str = "") -> IdentityPlan:
    return plan_identity(found, token_digest=token_digest)


def test_an_empty_directory_makes_a_cluster_or_joins_one() -> None:
    assert plan(Found()) == Bootstrap()
    assert plan(Found(), "ours") == Join()


def test_an_identity_is_used_with_or_without_the_token_of_its_cluster() -> None:
    assert plan(WHOLE) == plan(WHOLE, "ours") == Load()


def test_the_token_of_another_cluster_is_refused() -> None:
    refusal = plan(WHOLE, "theirs")
    assert isinstance(refusal, Refuse)
    assert "another cluster" in refusal.reason


def test_a_bootstrap_that_was_cut_short_is_taken_up_again() -> None:
    assert plan(Found(root_key=True)) == Bootstrap()
    assert plan(Found(root_key=True, root_certificate=True, root_digest="ours")) == Bootstrap()


def test_a_join_that_was_cut_short_is_taken_up_again_with_its_token_only() -> None:
    half = Found(root_certificate=True, root_digest="ours")
    assert plan(half, "ours") == Join()
    assert isinstance(plan(half), Refuse)


@pytest.mark.parametrize(
    "found",
    [
        Found(root_certificate=True, node_certificate=True, root_digest="ours"),
        Found(node_certificate=True, node_key=True),
        Found(store=True),
        Found(root_certificate=True, root_key=True, store=True, root_digest="ours"),
    ],
)
def test_a_directory_with_a_part_missing_is_refused(found: Found) -> None:
    refusal = plan(found)
    assert isinstance(refusal, Refuse)
    assert "missing" in refusal.reason or "without" in refusal.reason


def test_a_store_never_gets_a_new_identity() -> None:
    for flags in product((False, True), repeat=4):
        root, root_key, certificate, key = flags
        found = Found(
            root_certificate=root,
            root_key=root_key,
            node_certificate=certificate,
            node_key=key,
            store=True,
            root_digest="ours" if root else "",
        )
        for token in ("", "ours", "theirs"):
            assert isinstance(plan(found, token), Load | Refuse)


def test_a_manager_needs_its_store_unless_it_can_still_come_by_one() -> None:
    whole = {"root_certificate": True, "node_certificate": True, "node_key": True}
    lost = Found(**whole)  # type: ignore[arg-type]
    assert "raft/ is empty" in lost_store(lost, is_manager=True, knows_others=False)
    assert not lost_store(lost, is_manager=False, knows_others=False)
    assert not lost_store(lost, is_manager=True, knows_others=True)
    assert not lost_store(Found(**whole, root_key=True), is_manager=True, knows_others=False)  # type: ignore[arg-type]
    assert not lost_store(Found(**whole, store=True), is_manager=True, knows_others=False)  # type: ignore[arg-type]


def test_a_new_cluster_is_forced_only_from_a_managers_directory() -> None:
    assert not cannot_force(Load(), is_manager=True)
    assert not cannot_force(Bootstrap(), is_manager=False)
    assert "worker" in cannot_force(Load(), is_manager=False)
    assert "no cluster" in cannot_force(Join(), is_manager=False)


def test_a_token_of_before_a_rotation_of_the_root_is_no_other_clusters() -> None:
    found = Found(
        root_certificate=True,
        node_certificate=True,
        node_key=True,
        root_digest="ours",
        former_digests=frozenset({"former"}),
    )
    assert plan(found, "former") == Load()
    assert isinstance(plan(found, "another"), Refuse)
