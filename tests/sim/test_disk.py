"""The simulated disk itself: what a power cut keeps and takes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.sim.disk import ProcessDied, SimDisk


def test_synced_bytes_stay_and_the_others_may_go(tmp_path: Path) -> None:
    left = set()
    for seed in range(40):
        disk = SimDisk(random.Random(seed))
        mount = disk.mount()
        path = tmp_path / f"{seed}"
        descriptor = mount.create(path)
        mount.write(descriptor, b"durable")
        mount.sync(descriptor)
        mount.sync_directory(tmp_path)
        mount.write(descriptor, b"hoped")
        disk.lose_power()
        found = path.read_bytes()
        assert found.startswith(b"durable")
        left.add(len(found))
    assert len(left) > 3, "any part of the rest may be there"


def test_a_rename_is_sure_only_behind_a_sync_of_its_directory(tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(20):
        disk = SimDisk(random.Random(seed))
        mount = disk.mount()
        old, new = tmp_path / f"{seed}.new", tmp_path / f"{seed}"
        descriptor = mount.create(old)
        mount.write(descriptor, b"x")
        mount.sync(descriptor)
        mount.replace(old, new)
        if seed % 2:
            mount.sync_directory(tmp_path)
        disk.lose_power()
        if seed % 2:
            assert new.exists()
        else:
            outcomes.add(new.exists())
    assert outcomes == {True, False}


def test_a_dead_process_writes_nothing_any_more(tmp_path: Path) -> None:
    disk = SimDisk(random.Random(1))
    dead = disk.mount()
    descriptor = dead.create(tmp_path / "a")
    alive = disk.mount()
    with pytest.raises(ProcessDied):
        dead.write(descriptor, b"x")
    own = alive.create(tmp_path / "b")
    alive.write(own, b"y")
    alive.close(own)
    assert (tmp_path / "b").read_bytes() == b"y"


def test_a_full_disk_refuses_until_it_has_room(tmp_path: Path) -> None:
    disk = SimDisk(random.Random(1))
    mount = disk.mount()
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        mount.create(tmp_path / "a")
    disk.full = False
    mount.close(mount.create(tmp_path / "a"))
