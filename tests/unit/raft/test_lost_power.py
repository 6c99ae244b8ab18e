"""What the store's files are after a power cut: synced entries are there, whatever happened between the process and the disk before."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from services.raft.core.entries import NO_OP, Entry
from services.raft.shell.keys import FileKey
from services.raft.shell.log import Log
from services.raft.shell.recovery import recover
from tests.sim.disk import ProcessDied, SimDisk

KEY = bytes(32)


class TornDisk(SimDisk):
    """Loses all that it may lose."""

    def __init__(self) -> None:
        super().__init__(_Lowest())


class _Lowest(random.Random):
    """Always the least, so that a power cut keeps nothing more than it must."""

    def random(self) -> float:
        return 0.999

    def randint(self, low: int, high: int) -> int:
        return low

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 0 if stop is None else start


def _open(directory: Path, disk: SimDisk) -> Log:
    return Log(directory, KEY, entropy=bytes, disk=disk.mount())


def _never() -> None:
    return


def test_an_entry_that_was_read_back_after_a_kill_survives_a_power_cut(tmp_path: Path) -> None:
    disk = TornDisk()
    log = _open(tmp_path, disk)
    log.append(Entry(NO_OP, 1, 0))
    log.sync()
    log.append(Entry(NO_OP, 2, 0))
    disk.burn(2, _never)
    with pytest.raises(ProcessDied):
        log.sync()
    restarted = _open(tmp_path, disk)
    assert restarted.entries.last == 2, "the page cache still has what was written"
    restarted.append(Entry(NO_OP, 3, 0))
    restarted.sync()
    disk.lose_power()
    assert _open(tmp_path, disk).entries.last == 3


def test_what_was_not_synced_may_be_gone_after_a_power_cut_and_nothing_else(tmp_path: Path) -> None:
    disk = TornDisk()
    log = _open(tmp_path, disk)
    log.append(Entry(NO_OP, 1, 0))
    log.sync()
    log.append(Entry(NO_OP, 2, 0))
    disk.burn(2, disk.lose_power)
    with pytest.raises(ProcessDied):
        log.sync()
    assert _open(tmp_path, disk).entries.last == 1


@pytest.mark.parametrize("operations", range(1, 14))
def test_the_data_key_that_a_killed_process_made_is_there_for_good(operations: int, tmp_path: Path) -> None:
    disk = TornDisk()
    entropy: Callable[[int], bytes] = random.Random(operations).randbytes

    def start() -> Log:
        mount = disk.mount()
        return recover(tmp_path, FileKey(tmp_path / "data.key", entropy, mount), entropy, mount).log

    disk.burn(operations, _never)
    with contextlib.suppress(ProcessDied):
        start()
    disk.spare()
    log = start()
    log.append(Entry(NO_OP, 1, 0))
    log.sync()
    disk.lose_power()
    assert start().entries.last == 1
