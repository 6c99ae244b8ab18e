"""The log on disk against a model: whatever a crash leaves of the last write, what was synced is there, and damage is never mistaken for it."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from services.kit.errors import DataLoss
from services.raft.core.entries import NO_OP, Entry
from services.raft.shell.log import Log

KEY = bytes(range(32))
SEEDS = st.integers(0, 2**32)


class Model:
    """A log driven at random, and what it held at each sync."""

    def __init__(self, directory: Path, seed: int, segment_bytes: int) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.segment_bytes = segment_bytes
        self.log = self.open()
        self.log.append(Entry(NO_OP, 1, 0))
        self.log.sync()
        self.synced = [self.picture()]
        self.sizes = [self.size()]

    def open(self) -> Log:
        return Log(self.directory, KEY, entropy=self.rng.randbytes, segment_bytes=self.segment_bytes)

    def picture(self) -> tuple[object, ...]:
        return picture(self.log)

    def newest(self) -> Path:
        return max(self.directory.glob("*.segment"))

    def size(self) -> tuple[str, int]:
        return self.newest().name, self.newest().stat().st_size

    def turn(self) -> None:
        """Do a few things and sync once."""
        for _ in range(self.rng.randint(1, 4)):
            self._one()
        self.log.sync()
        self.synced.append(self.picture())
        self.sizes.append(self.size())

    def _one(self) -> None:
        entries = self.log.entries
        match self.rng.randrange(6):
            case 0 if entries.last > self.log.commit_index + 1:
                self.log.cut_from(self.rng.randint(self.log.commit_index + 1, entries.last))
            case 1:
                self.log.set_term(self.log.term + 1, self.rng.choice((None, "a", "b")))
            case 2:
                self.log.set_commit_index(self.rng.randint(self.log.commit_index, entries.last))
                self.log.append(Entry(b"\x00" + self.rng.randbytes(5), entries.last + 1, self.log.term))
            case _:
                command = b"\x00" + self.rng.randbytes(self.rng.randint(0, 200))
                self.log.append(Entry(command, entries.last + 1, self.log.term))


def picture(log: Log) -> tuple[object, ...]:
    return tuple(log.entries.items), log.term, log.vote, log.commit_index


@given(seed=SEEDS, turns=st.integers(1, 12), segment_bytes=st.sampled_from((300, 2000, 1 << 20)))
def test_a_log_comes_back_as_it_was_synced(seed: int, turns: int, segment_bytes: int) -> None:
    note(f"seed {seed}")
    with tempfile.TemporaryDirectory() as directory:
        model = Model(Path(directory), seed, segment_bytes)
        for _ in range(turns):
            model.turn()
        model.log.close()
        again = model.open()
        assert picture(again) == model.synced[-1]
        again.append(Entry(NO_OP, again.entries.last + 1, again.term))
        again.close()
        assert model.open().entries.last == len(again.entries.items)


@given(seed=SEEDS, turns=st.integers(1, 8), kept=st.floats(0, 1), garble=st.booleans())
def test_a_crash_at_any_byte_of_the_last_write_loses_nothing_that_was_synced(
    seed: int, turns: int, kept: float, garble: bool
) -> None:
    note(f"seed {seed}")
    with tempfile.TemporaryDirectory() as directory:
        model = Model(Path(directory), seed, 1 << 20)
        for _ in range(turns):
            model.turn()
        model.log.close()
        (name, before), (_, after) = model.sizes[-2:]
        path = model.directory / name
        data = bytearray(path.read_bytes())
        end = before + int((after - before) * kept)
        if garble and end > before:
            data[model.rng.randrange(before, end)] ^= 1 << model.rng.randrange(8)
        path.write_bytes(data[:end])
        recovered = picture(model.open())
        whole = end == after and not (garble and end > before)
        assert recovered == model.synced[-1 if whole else -2]


@given(seed=SEEDS, turns=st.integers(2, 8), where=st.floats(0, 1))
def test_damage_before_the_last_write_is_refused(seed: int, turns: int, where: float) -> None:
    note(f"seed {seed}")
    with tempfile.TemporaryDirectory() as directory:
        model = Model(Path(directory), seed, 400)
        for _ in range(turns):
            model.turn()
        model.log.close()
        path = min(model.directory.glob("*.segment"))
        end = path.stat().st_size if path != model.newest() else model.sizes[-2][1]
        data = bytearray(path.read_bytes())
        data[int(where * (end - 1))] ^= 0x40
        path.write_bytes(data)
        with pytest.raises(DataLoss, match="nothing was changed"):
            model.open()


@given(seed=SEEDS, keep=st.integers(0, 10))
def test_compaction_keeps_every_entry_behind_the_snapshot(seed: int, keep: int) -> None:
    note(f"seed {seed}")
    with tempfile.TemporaryDirectory() as directory:
        model = Model(Path(directory), seed, 300)
        for _ in range(15):
            model.turn()
        model.log.set_commit_index(model.log.entries.last)
        model.log.append(Entry(NO_OP, model.log.entries.last + 1, model.log.term))
        model.log.sync()
        snapshot = model.rng.randint(1, model.log.commit_index)
        wanted = model.log.entries.between(snapshot, model.log.entries.last)
        model.log.compact(snapshot, keep=keep, keep_bytes=1 << 20)
        assert model.log.entries.first == max(1, snapshot - keep)
        model.log.close()
        again = model.open()
        assert again.entries.between(snapshot, again.entries.last) == wanted
        assert (again.term, again.vote) == (model.log.term, model.log.vote)


def test_a_missing_file_in_the_middle_is_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, 1, 100)
    for _ in range(5):
        model.turn()
    model.log.close()
    sorted(tmp_path.glob("*.segment"))[1].unlink()
    with pytest.raises(DataLoss, match="gap"):
        model.open()


def test_another_data_key_is_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, 1, 1 << 20)
    model.turn()
    model.log.close()
    with pytest.raises(DataLoss, match="data key"):
        Log(tmp_path, bytes(32), entropy=bytes)


def test_commands_cannot_be_read_from_the_disk(tmp_path: Path) -> None:
    log = Log(tmp_path, KEY, entropy=bytes)
    log.append(Entry(b"\x10 a secret of the swarm", 1, 0))
    log.close()
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())
