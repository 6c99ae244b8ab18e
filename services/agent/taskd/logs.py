"""Log files of a task: numbered segments of raw output, each with an index that says when and from which stream.

    log.000001         what the task wrote, standard output and error in the order in which taskd read them
    log.000001.index   one record per piece: wall-clock seconds, end offset in the segment, stream

taskd writes, the process driver reads. A segment is never renamed: when it is full the next number begins and the oldest goes, so a
reader holds its place by number. Data is written before its record; a piece without record (after a crash) counts as standard output.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress

RECORD = struct.Struct("<dQB7x")
STDOUT = 1
STDERR = 2
_PREFIX = "log."
_INDEX = ".index"
_DIGITS = 6
_PIECE_BYTES = 256 << 10


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"{_PREFIX}{number:0{_DIGITS}}"


def index_name(number: int) -> str:
    """Return the file name of a segment's index."""
    return segment_name(number) + _INDEX


def segments(directory: str) -> list[int]:
    """Return the numbers of the segments that are there, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(
        int(name[len(_PREFIX) :]) for name in names if name.startswith(_PREFIX) and name[len(_PREFIX) :].isdigit()
    )


class LogWriter:
    """Moves a task's output from its pipes to its segments, by splice where the file system can."""

    def __init__(self, directory: str, *, bytes_max: int, files_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._can_splice = True
        self.dropped_bytes = 0
        numbers = segments(directory)
        self._open(numbers[-1] if numbers else 1)
        self._mend()

    @property
    def segment(self) -> int:
        """Return the number of the segment that is written now."""
        return self._number

    @property
    def records(self) -> int:
        """Return how many index records it has."""
        return self._records

    def move(self, pipe: int, stream: int, now: float) -> int:
        """Move one piece from a non-blocking pipe; return its bytes, 0 when the pipe is empty.

        When it cannot be written, as on a full disk, the piece is dropped and counted: a task must not hang on its log.
        """
        try:
            if self._size >= self._bytes_max:
                self._next()
            count = self._splice(pipe) if self._can_splice else self._copy(pipe)
        except BlockingIOError:
            return 0
        except OSError:
            return self._drop(pipe)
        if count:
            self._size += count
            self._index(now, stream)
        return count

    def close(self) -> None:
        """Close the files."""
        os.close(self._data)
        os.close(self._records_file)

    def _splice(self, pipe: int) -> int:
        try:
            return os.splice(pipe, self._data, self._room(), offset_dst=self._size, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._can_splice = False
            return self._copy(pipe)

    def _copy(self, pipe: int) -> int:
        data = os.read(pipe, self._room())
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._data, data[written:], self._size + written)
        except OSError:
            self.dropped_bytes += len(data) - written
        return written

    def _room(self) -> int:
        return min(_PIECE_BYTES, self._bytes_max - self._size)

    def _drop(self, pipe: int) -> int:
        try:
            count = len(os.read(pipe, _PIECE_BYTES))
        except BlockingIOError:
            return 0
        self.dropped_bytes += count
        return count

    def _index(self, now: float, stream: int) -> None:
        try:
            os.pwrite(self._records_file, RECORD.pack(now, self._size, stream), self._records * RECORD.size)
        except OSError:
            # The next record that fits covers these bytes too.
            return
        self._records += 1

    def _open(self, number: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        data = os.open(f"{self._directory}/{segment_name(number)}", flags, 0o600)
        try:
            self._records_file = os.open(f"{self._directory}/{index_name(number)}", flags, 0o600)
        except OSError:
            os.close(data)
            raise
        self._number, self._data = number, data
        self._size = os.fstat(self._data).st_size
        self._records = os.fstat(self._records_file).st_size // RECORD.size

    def _next(self) -> None:
        for number in segments(self._directory)[: 1 - self._files_max]:
            for name in (index_name(number), segment_name(number)):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._directory}/{name}")
        full = (self._data, self._records_file)
        self._open(self._number + 1)
        for descriptor in full:
            os.close(descriptor)

    def _mend(self) -> None:
        """Index what a crash left between data and record."""
        if not self._size:
            return
        end = 0
        if self._records:
            last = os.pread(self._records_file, RECORD.size, (self._records - 1) * RECORD.size)
            _, end, _ = RECORD.unpack(last)
        if end < self._size:
            self._index(os.fstat(self._data).st_mtime, STDOUT)
