"""Reading the logs that taskd writes: lines with time and stream, from the start or going on, through rotation.

Used by the process driver. The files are described in ``taskd/logs.py``; they are only read here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from services.agent.drivers.api import Line
from services.agent.taskd.logs import RECORD, STDERR, STDOUT, index_name, segment_name, segments
from services.kit.model.states import LogStream

BATCH_BYTES: Final = 64 << 10
LINE_BYTES_MAX: Final = 64 << 10
"""A longer line comes in pieces of this size."""
_STREAMS: Final = {STDOUT: LogStream.STDOUT, STDERR: LogStream.STDERR}


class LogReader:
    """A place in a task's log. Both streams are read in the order in which they were written; a line has the time of its first byte."""

    def __init__(self, directory: Path, *, since: float = 0.0, streams: tuple[LogStream, ...] = ()) -> None:
        self._directory = directory
        self._since = since
        self._streams = frozenset(streams or LogStream)
        self._segment = 0
        self._records = 0
        self._offset = 0
        self._unfinished: dict[int, tuple[float, bytearray]] = {}

    @property
    def place(self) -> tuple[int, int]:
        """Return segment and number of index records that were read of it."""
        return self._segment, self._records

    def read(self) -> tuple[Line, ...]:
        """Return the next lines, about a batch; nothing at the present end."""
        lines: list[Line] = []
        taken = 0
        while not lines or taken < BATCH_BYTES:
            count = self._step(lines)
            if not count:
                break
            taken += count
        return tuple(lines)

    def finish(self) -> tuple[Line, ...]:
        """Return what is left without a newline."""
        lines: list[Line] = []
        for stream, (time, data) in sorted(self._unfinished.items()):
            if data:
                self._emit(lines, stream, time, bytes(data))
        self._unfinished.clear()
        return tuple(lines)

    def _step(self, lines: list[Line]) -> int:
        """Read one piece, or go to the next segment; return how far we came, 0 at the present end."""
        later = [number for number in segments(str(self._directory)) if number > self._segment]
        record = self._next_record()
        if record is None:
            # The list of segments is older than the look for a record: a segment with a successor is complete.
            if not later:
                return 0
            self._segment, self._records, self._offset = later[0], 0, 0
            return 1
        time, end, stream = record
        data = self._read_data(end)
        if not data:
            # The segment was deleted under us, or the disk lost it: go on behind the piece.
            self._records += 1
            self._offset = end
            return 1
        self._offset += len(data)
        if self._offset == end:
            self._records += 1
        self._take(lines, stream, time, data)
        return len(data)

    def _next_record(self) -> tuple[float, int, int] | None:
        try:
            with (self._directory / index_name(self._segment)).open("rb") as file:
                packed = os.pread(file.fileno(), RECORD.size, self._records * RECORD.size)
        except FileNotFoundError:
            return None
        return RECORD.unpack(packed) if len(packed) == RECORD.size else None

    def _read_data(self, end: int) -> bytes:
        try:
            with (self._directory / segment_name(self._segment)).open("rb") as file:
                return os.pread(file.fileno(), min(end - self._offset, BATCH_BYTES), self._offset)
        except FileNotFoundError:
            return b""

    def _take(self, lines: list[Line], stream: int, time: float, data: bytes) -> None:
        began, buffer = self._unfinished.pop(stream, (time, bytearray()))
        *whole, rest = data.split(b"\n")
        for piece in whole:
            buffer += piece
            self._emit(lines, stream, began, bytes(buffer))
            began, buffer = time, bytearray()
        buffer += rest
        while len(buffer) >= LINE_BYTES_MAX:
            self._emit(lines, stream, began, bytes(buffer[:LINE_BYTES_MAX]))
            del buffer[:LINE_BYTES_MAX]
        if buffer:
            self._unfinished[stream] = (began, buffer)

    def _emit(self, lines: list[Line], stream: int, time: float, data: bytes) -> None:
        if time >= self._since and _STREAMS[stream] in self._streams:
            lines.append(Line(time, _STREAMS[stream], data))
