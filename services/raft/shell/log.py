"""The log on disk: sealed segments, appended to by group commit, and the entries in memory.

One write and one fdatasync per turn of the member's loop; nothing that depends on a record is told to anybody before ``sync`` returned.
A torn end is cut at start; damage anywhere else is refused and touched no further. What must stay true: the membership of the log is
that of its entries, and no entry at or before the snapshot is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.kit.errors import DataLoss
from services.kit.runtime.files import REAL_DISK, Disk
from services.raft.core import frames, records
from services.raft.core.commands import membership_of
from services.raft.core.entries import Entry
from services.raft.core.members import Configuration, Membership
from services.raft.shell.sealed import (
    PREAMBLE_BYTES,
    SALT_BYTES,
    WAY_BACK,
    Cipher,
    Preamble,
    key_of,
    preamble,
    read_preamble,
)

SEGMENT_BYTES = 16 << 20
"""A segment is closed once it holds this much."""
SUFFIX = ".segment"
_NEW = ".new"


@dataclass(slots=True)
class _Segment:
    path: Path
    number: int
    highest: int
    """Highest index of its entries, 0 when it has none."""
    data_key: bytes


class Log:
    """One member's log. All methods but ``sync`` only change memory and gather records."""

    def __init__(
        self,
        directory: Path,
        data_key: bytes,
        *,
        entropy: Callable[[int], bytes],
        base: Configuration | None = None,
        base_index: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        disk: Disk = REAL_DISK,
        older_keys: tuple[bytes, ...] = (),
    ) -> None:
        """Read what is there, new files being sealed under ``data_key``; raises DataLoss when it is damaged."""
        self._disk = disk
        self._directory = directory
        self._data_key = data_key
        self._older_keys = older_keys
        self._entropy = entropy
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._sequence = 0
        self._buffer: list[bytes] = []
        self._descriptor = -1
        self._cipher: Cipher | None = None
        self._size = 0
        recovered = self._read()
        self.is_new = not self._segments
        """True when there was no file: a log that was ever synced has one."""
        self.entries = recovered.entries
        self.term = recovered.term
        self.vote = recovered.vote
        self._commit = min(recovered.commit, self.entries.last)
        self._commit_written = self._commit
        self.membership = Membership(base or Configuration(), base_index)
        for entry in self.entries.items:
            self._note_membership(entry)
        self.syncs = 0
        self.bytes_written = 0

    # -- reading

    @property
    def commit_index(self) -> int:
        """How far the log is known to be committed."""
        return self._commit

    @property
    def dirty(self) -> bool:
        """True when something is not durable yet."""
        return bool(self._buffer)

    @property
    def lies_under_older_keys(self) -> bool:
        """True while a file is sealed under another key than new files are."""
        return any(segment.data_key != self._data_key for segment in self._segments)

    # -- changing

    def use_key(self, data_key: bytes) -> None:
        """Seal under another key from the next sync on."""
        self._older_keys = (self._data_key, *self._older_keys)
        self._data_key = data_key

    def append(self, entry: Entry) -> None:
        """Add the next entry."""
        self.entries.append(entry)
        self._note_membership(entry)
        self._buffer.append(records.entry(entry))

    def cut_from(self, index: int) -> None:
        """Forget the entry at ``index`` and all behind it: they contradict the leader's."""
        assert index > self._commit, f"entry {index} is committed"
        if index <= self.entries.last:
            self.entries.cut_from(index)
            self.membership.cut_from(index)
            self._buffer.append(records.cut(index))

    def set_term(self, term: int, vote: str | None) -> None:
        """Remember the current term and the vote in it."""
        if (term, vote) != (self.term, self.vote):
            self.term, self.vote = term, vote
            self._buffer.append(records.hard_state(term, vote))

    def set_commit_index(self, index: int) -> None:
        """Remember how far the log is committed; becomes durable with the next record that must."""
        self._commit = max(self._commit, index)

    def begin_at(self, index: int, term: int, configuration: Configuration) -> None:
        """Start anew behind an installed snapshot; durable on return."""
        self.entries.begin_at(index, term)
        self.membership = Membership(configuration, index)
        self._commit = index
        self._buffer = [records.begin(index, term)]
        old, self._segments = self._segments, []
        self._close_segment()
        self.sync()
        for segment in old:
            self._disk.remove(segment.path)
        self._disk.sync_directory(self._directory)

    def compact(self, snapshot_index: int, *, keep: int, keep_bytes: int) -> None:
        """Forget what a durable snapshot covers, but for a bounded tail for slow followers, and the files that hold nothing else."""
        self.membership.rebase(snapshot_index)
        self.entries.drop_before(self.entries.tail(snapshot_index, keep, keep_bytes))
        while len(self._segments) > 1 and self._segments[0].highest < self.entries.first:
            self._disk.remove(self._segments.pop(0).path)

    def sync(self) -> None:
        """Make everything durable; OSError when the disk refuses, after which the log must not be used any more."""
        if not self._buffer:
            return
        if self._descriptor < 0 or self._size >= self._segment_bytes or self._segments[-1].data_key != self._data_key:
            self._open_segment()
        if self._commit_written != self._commit:
            self._buffer.append(records.commit(self._commit))
            self._commit_written = self._commit
        buffer, self._buffer = self._buffer, []
        for payload in records.gather(buffer):
            self._write(payload)
            self._disk.sync(self._descriptor)
        self._segments[-1].highest = max(self._segments[-1].highest, self.entries.last)
        self.syncs += 1

    def close(self) -> None:
        """Make everything durable and let go of the file; idempotent."""
        self.sync()
        self._close_segment()

    # -- files

    def _write(self, payload: bytes) -> None:
        assert self._cipher is not None
        data = self._cipher.seal(self._sequence, payload)
        self._disk.write(self._descriptor, data)
        self._sequence += 1
        self._size += len(data)
        self.bytes_written += len(data)

    def _open_segment(self) -> None:
        """Begin a file with the hard state in it; it appears whole and durable or not at all."""
        self._close_segment()
        number = self._next_number()
        path = self._directory / f"{number:012d}{SUFFIX}"
        temporary = path.with_suffix(_NEW)
        head = Preamble(number, self._sequence, self._entropy(SALT_BYTES))
        self._cipher = Cipher(self._data_key, head.salt)
        self._descriptor = self._disk.create(temporary)
        self._disk.write(self._descriptor, preamble(head))
        self._size = PREAMBLE_BYTES
        self._write(records.hard_state(self.term, self.vote) + records.commit(self._commit))
        self._disk.sync(self._descriptor)
        self._disk.replace(temporary, path)
        self._disk.sync_directory(self._directory)
        self._segments.append(_Segment(path, number, 0, self._data_key))

    def _next_number(self) -> int:
        numbers = [int(path.stem) for path in self._directory.glob(f"*{SUFFIX}")]
        return max(numbers, default=0) + 1

    def _close_segment(self) -> None:
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._descriptor = -1

    # -- recovery

    def _read(self) -> records.Recovered:
        for unfinished in self._directory.glob(f"*{_NEW}"):
            self._disk.remove(unfinished)
        recovered = records.Recovered()
        paths = sorted(self._directory.glob(f"*{SUFFIX}"))
        for path in paths:
            self._read_segment(path, recovered, last=path == paths[-1])
        return recovered

    def _read_segment(self, path: Path, recovered: records.Recovered, *, last: bool) -> None:
        data = path.read_bytes()
        head = read_preamble(data, path)
        if self._segments and (head.number, head.first_sequence) != (self._segments[-1].number + 1, self._sequence):
            raise DataLoss(f"{path}: the log has a gap before this file; {WAY_BACK}")
        scan = frames.scan(data, PREAMBLE_BYTES, head.first_sequence)
        if scan.damaged or (scan.end != len(data) and not last):
            raise DataLoss(f"{path} is damaged at byte {scan.end}; {WAY_BACK}")
        first = scan.frames[0] if scan.frames else None
        segment = _Segment(path, head.number, 0, key_of((self._data_key, *self._older_keys), head.salt, first))
        cipher = Cipher(segment.data_key, head.salt)
        for frame in scan.frames:
            try:
                segment.highest = max(segment.highest, recovered.take(cipher.open(frame, path)))
            except records.BrokenRecord as error:
                raise DataLoss(f"{path}: frame {frame.sequence} makes no sense ({error}); {WAY_BACK}") from error
        if scan.end != len(data):
            self._disk.cut(path, scan.end)
        elif last:
            # A process that was killed between its write and its sync left frames that only the page cache holds.
            self._disk.settle(path)
        self._segments.append(segment)
        self._sequence = head.first_sequence + len(scan.frames)

    def _note_membership(self, entry: Entry) -> None:
        change = membership_of(entry.command)
        if change is not None:
            self.membership.append(entry.index, change)
