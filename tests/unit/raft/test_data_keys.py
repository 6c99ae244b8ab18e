"""The data keys of a store: made, sealed, exchanged when they lay open, forgotten when nothing lies under them any more."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from services.kit.errors import DataLoss, FailedPrecondition
from services.kit.runtime.sealed_key import KEYS_MAX, is_sealed
from services.raft.core.entries import NO_OP, Entry
from services.raft.core.machine import Machine
from services.raft.core.members import Configuration
from services.raft.core.snapshot import Head
from services.raft.shell.keys import FileKey
from services.raft.shell.log import Log
from services.raft.shell.recovery import recover
from services.raft.shell.snapshots import Snapshots

UNLOCK = b"u" * 32
NEXT = b"v" * 32


def entropy() -> Callable[[int], bytes]:
    """Return a source whose bytes never repeat."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def opened(path: Path, source: Callable[[int], bytes], *unlock_keys: bytes) -> FileKey:
    key = FileKey(path, source, unlock_keys=unlock_keys)
    key.load()
    return key


def test_a_key_file_is_sealed_from_its_first_moment_when_the_cluster_is_locked(tmp_path: Path) -> None:
    path, source = tmp_path / "data.key", entropy()
    key = opened(path, source, UNLOCK)
    assert is_sealed(path.read_bytes())
    assert key.newest not in path.read_bytes()
    assert opened(path, source, UNLOCK).newest == key.newest
    assert opened(path, source, NEXT, UNLOCK).newest == key.newest, "the key before the newest is tried as well"
    for wrong in ((), (NEXT,)):
        before = path.read_bytes()
        with pytest.raises(FailedPrecondition):
            opened(path, source, *wrong)
        assert path.read_bytes() == before


def test_what_lay_open_gets_a_new_key_when_managers_are_locked_and_no_other_change_does(tmp_path: Path) -> None:
    path, source = tmp_path / "data.key", entropy()
    key = opened(path, source)
    lay_open = key.newest
    assert key.seal_under(UNLOCK), "there is a new data key"
    assert key.older == (lay_open,)
    sealed = key.newest
    assert not key.seal_under(NEXT), "another unlock key only seals anew"
    assert not key.seal_under(b""), "nor does unlocking make one"
    assert (key.newest, key.older) == (sealed, (lay_open,))
    again = opened(path, source)
    assert (again.newest, again.older) == (sealed, (lay_open,))
    again.forget_older()
    assert opened(path, source).older == ()
    assert path.read_bytes() == sealed


def test_locking_again_and_again_keeps_a_bounded_number_of_keys(tmp_path: Path) -> None:
    path, source = tmp_path / "data.key", entropy()
    key = opened(path, source)
    for _ in range(2 * KEYS_MAX):
        key.seal_under(UNLOCK)
        key.seal_under(b"")
    again = opened(path, source)
    assert len(again.older) == KEYS_MAX - 1
    assert again.newest == key.newest


def entry(index: int) -> Entry:
    return Entry(NO_OP, index, 1)


@pytest.mark.parametrize("crash_after", ["the file", "the switch", "one entry", "the snapshot"])
def test_a_store_is_read_whole_at_every_step_of_a_change_of_keys(tmp_path: Path, crash_after: str) -> None:
    source = entropy()
    keys = FileKey(tmp_path / "data.key", source)
    recovered = recover(tmp_path, keys, source)
    log, snapshots = recovered.log, recovered.snapshots
    for index in range(1, 6):
        log.append(entry(index))
    log.sync()
    lay_open = keys.newest
    last = 5

    keys.seal_under(UNLOCK)
    if crash_after != "the file":
        log.use_key(keys.newest)
        snapshots.use_key(keys.newest)
    if crash_after in {"one entry", "the snapshot"}:
        log.append(entry(6))
        log.sync()
        last = 6
        assert log.lies_under_older_keys
    if crash_after == "the snapshot":
        log.set_commit_index(6)
        snapshots.write(Head(index=6, term=1, version=0, configuration=Configuration()), Machine().state.freeze())
        log.compact(6, keep=0, keep_bytes=0)
        assert not log.lies_under_older_keys
        assert not snapshots.lie_under_older_keys
        keys.forget_older()
    again = FileKey(tmp_path / "data.key", source, unlock_keys=(UNLOCK,))
    read = recover(tmp_path, again, source)
    assert read.log.entries.last == last
    assert again.newest != lay_open
    if crash_after == "the snapshot":
        assert again.older == ()
        with pytest.raises(DataLoss):
            Log(tmp_path / "log", lay_open, entropy=os.urandom)
        with pytest.raises(DataLoss):
            Snapshots(tmp_path / "snapshots", lay_open, entropy=os.urandom).load(6)
    else:
        assert again.older == (lay_open,)
        assert read.log.lies_under_older_keys
