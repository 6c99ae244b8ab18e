"""What the store stands on in pysyncobj is there, and pickle cannot be reached."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services.kit.model.ids import NodeId
from services.kit.runtime.clock import ManualClock
from services.raft.core.members import ChangeKind, MembershipChange
from services.raft.shell.library import LibraryMismatch, check_library
from tests.support.raft_group import Group, record, use_clock


def test_the_installed_library_is_the_pinned_one() -> None:
    check_library()


def test_addresses_can_be_read_after_the_library_was_imported() -> None:
    assert socket.inet_ntop(socket.AF_INET, b"\x7f\0\0\1") == "127.0.0.1"


def test_another_version_is_refused() -> None:
    with pytest.raises(LibraryMismatch, match=r"0\.3\.18"):
        check_library("0.3.18")


def test_nothing_is_pickled_or_unpickled_while_members_work_join_and_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_arguments: object, **_more: object) -> None:
        raise AssertionError("pickle was reached")

    import pysyncobj.syncobj

    for module in (pysyncobj.pickle, pysyncobj.syncobj.pickle):
        for name in ("loads", "dumps", "load", "dump"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, forbidden)
    clock = ManualClock()
    use_clock(monkeypatch, clock)
    group = Group(tmp_path, ["a", "b", "c"], clock=clock)
    group.start_all()
    leader = group.leader()
    group.write(leader)
    group.start("d", founders=[])
    leader.observe(record("d"))
    group.until(lambda: leader.lag(NodeId("d")) == 0)
    outcomes: list[object] = []
    leader.proposing.change_members(MembershipChange(kind=ChangeKind.ADD, member=record("d")), outcomes.append)
    group.until(lambda: outcomes)
    group.kill(leader.me)
    group.write(group.leader())
    group.close()
