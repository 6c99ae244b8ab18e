"""A manager whose log is gone: it is never taken for the member it was, and never founds an empty cluster in place of the old one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services.kit.errors import DataLoss
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.runtime.files import Disk
from services.kit.state.transaction import Op, create
from services.raft.shell.app import RaftApp
from tests.support.raft_home import Home, Homes, run_homes


def node(name: str, size: int = 0) -> Op:
    return create(Node(id=NodeId(name), remote_addr="x" * size))


def lose_log(home: Home) -> None:
    shutil.rmtree(home.directory / "raft" / "log")


async def with_snapshot(homes: Homes) -> Home:
    """A lone manager that has taken a snapshot of ten nodes, and written more since."""
    await homes.grow("a")
    home = await homes.leader()
    client = home.client()
    for number in range(10):
        await client.propose([node(f"n{number}", 5000)])
    assert home.app is not None
    compaction = home.app._compaction
    await home.app._driver.until(lambda: compaction._last_index > 1)
    await client.propose([node("since")])
    await home.kill()
    return home


def test_a_lone_manager_does_not_found_an_empty_cluster_in_place_of_its_own(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        home = await homes.leader()
        await home.client().propose([node("x")])
        await home.kill()
        lose_log(home)
        with pytest.raises(DataLoss, match="is empty although this manager had a log"):
            await home.start()

    run_homes(tmp_path, scenario)


def test_a_lone_manager_with_only_a_snapshot_left_says_so_and_goes_on_when_forced(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        home = await with_snapshot(homes)
        lose_log(home)
        with pytest.raises(DataLoss, match=r"Only the snapshot of entry .* --force-new-cluster"):
            await home.start()
        await home.app.stop()  # type: ignore[union-attr]
        await home.bus.close()  # type: ignore[union-attr]
        await home.start(force_new_cluster=True)
        await homes.until(home, lambda status: status.ready)
        assert await home.client().barrier() > 0
        await home.client().propose([node("after")])

    run_homes(tmp_path, scenario, snapshot_log_bytes=20_000)


def test_a_member_that_lost_its_log_but_not_its_snapshot_is_counted_only_after_it_has_joined_anew(
    tmp_path: Path,
) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a", "b", "c")
        leader = await homes.leader()
        hurt = next(home for home in homes.all.values() if home is not leader)
        for number in range(10):
            await leader.client().propose([node(f"n{number}", 5000)])
        assert hurt.app is not None
        compaction = hurt.app._compaction
        await hurt.app._driver.until(lambda: compaction._last_index > 1)
        before = hurt.app._record.incarnation
        await hurt.kill()
        lose_log(hurt)
        hurt.known = tuple(home.peer for home in homes.all.values() if home is not hurt)
        await hurt.start()
        assert not hurt.app._member.is_member
        await homes.until(hurt, lambda status: status.state == "follower" and status.version == 10)
        assert hurt.app._record.incarnation != before
        assert len((await leader.status()).members) == 3
        await leader.client().propose([node("after")])

    run_homes(tmp_path, scenario, snapshot_log_bytes=20_000)


class Cut(Exception):
    """The process ends here."""


class CutBeforeIncarnation(Disk):
    """Dies when a founder has written the first entries of its log and not yet who it is."""

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        if path.name == "incarnation":
            raise Cut
        super().write_atomic(path, data, mode=mode)


def test_a_founder_that_was_cut_off_in_the_middle_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(homes: Homes) -> None:
        home = homes.add("a")
        with monkeypatch.context() as patch:
            patch.setattr("tests.support.raft_home.RaftApp", _cut_off)
            with pytest.raises(Cut):
                await home.start()
        await home.app.stop()  # type: ignore[union-attr]
        await home.bus.close()  # type: ignore[union-attr]
        assert not (home.directory / "raft" / "incarnation").exists()
        await home.start()
        await homes.until(home, lambda status: status.ready)
        await home.client().propose([node("x")])

    run_homes(tmp_path, scenario)


def _cut_off(settings: object, runtime: object) -> RaftApp:
    return RaftApp(settings, runtime, disk=CutBeforeIncarnation())  # type: ignore[arg-type]
