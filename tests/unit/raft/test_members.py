"""Membership as a fold of the log, and the quorum guard."""

from __future__ import annotations

from services.kit.model.ids import NodeId
from services.raft.core.members import (
    REMOVED_MAX,
    ChangeKind,
    Configuration,
    Membership,
    MembershipChange,
    majority,
    may_remove,
)
from tests.support.raft_group import record


def change(kind: ChangeKind, name: str) -> MembershipChange:
    return MembershipChange(kind=kind, member=record(name))


def ids(*names: str) -> frozenset[NodeId]:
    return frozenset(NodeId(name) for name in names)


def test_a_change_takes_effect_when_it_is_appended_and_is_undone_when_it_is_cut() -> None:
    membership = Membership(Configuration(), 0)
    membership.append(2, change(ChangeKind.ADD, "a"))
    membership.append(5, change(ChangeKind.ADD, "b"))
    assert membership.latest.ids == ids("a", "b")
    membership.cut_from(5)
    assert membership.latest.ids == ids("a")


def test_the_configuration_at_an_index_knows_nothing_of_later_changes() -> None:
    membership = Membership(Configuration(), 0)
    for index, name in enumerate("abc", start=2):
        membership.append(index, change(ChangeKind.ADD, name))
    assert membership.at(3).ids == ids("a", "b")


def test_compaction_does_not_change_who_is_a_member() -> None:
    membership = Membership(Configuration(), 0)
    for index, name in enumerate("abc", start=2):
        membership.append(index, change(ChangeKind.ADD, name))
    membership.rebase(3)
    assert membership.latest.ids == ids("a", "b", "c")
    membership.cut_from(4)
    assert membership.latest.ids == ids("a", "b")


def test_entries_that_the_snapshot_covers_are_not_counted_twice() -> None:
    base = Configuration().after(change(ChangeKind.ADD, "a"))
    membership = Membership(base, 10)
    membership.append(4, change(ChangeKind.REMOVE, "a"))
    assert membership.latest.ids == ids("a")


def test_a_removed_member_is_remembered_until_it_is_added_again() -> None:
    configuration = Configuration().after(change(ChangeKind.ADD, "a")).after(change(ChangeKind.REMOVE, "a"))
    assert list(configuration.removed) == ["a"]
    assert configuration.after(change(ChangeKind.ADD, "a")).removed == {}


def test_only_so_many_removed_members_are_remembered() -> None:
    configuration = Configuration()
    for number in range(REMOVED_MAX + 10):
        configuration = configuration.after(change(ChangeKind.ADD, f"n{number}"))
        configuration = configuration.after(change(ChangeKind.REMOVE, f"n{number}"))
    assert len(configuration.removed) == REMOVED_MAX
    assert "n0" not in configuration.removed


def test_a_forced_cluster_has_one_member_and_remembers_the_others() -> None:
    configuration = Configuration()
    for name in "abc":
        configuration = configuration.after(change(ChangeKind.ADD, name))
    alone = configuration.after(change(ChangeKind.ONLY, "b"))
    assert alone.ids == ids("b")
    assert set(alone.removed) == {"a", "c"}


def test_the_quorum_guard_counts_the_reachable_of_the_rest() -> None:
    three = ids("a", "b", "c")
    assert may_remove(three, ids("a", "b"), NodeId("c"))
    assert not may_remove(three, ids("a", "c"), NodeId("c"))
    assert may_remove(ids("a", "b"), ids("a"), NodeId("b"))
    assert not may_remove(ids("a"), ids("a"), NodeId("a"))


def test_a_majority_is_more_than_half() -> None:
    assert [majority(members) for members in range(1, 6)] == [1, 2, 2, 3, 3]
