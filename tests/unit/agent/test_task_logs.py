"""The log files of a task: what was written is read back, line by line, whatever the pieces and the rotation."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.agent.drivers.api import Line
from services.agent.drivers.task_logs import LINE_BYTES_MAX, LogReader
from services.agent.taskd.logs import RECORD, STDERR, STDOUT, LogWriter, index_name, segment_name, segments
from services.kit.model.states import LogStream

STREAMS = {STDOUT: LogStream.STDOUT, STDERR: LogStream.STDERR}


class Pipe:
    """A pipe whose content goes to a log."""

    def __init__(self, directory: Path, *, bytes_max: int = 1 << 20, files_max: int = 3) -> None:
        self.directory = directory
        self._settings = {"bytes_max": bytes_max, "files_max": files_max}
        self.writer = LogWriter(str(directory), **self._settings)
        self._out, self._in = os.pipe2(os.O_NONBLOCK)

    def write(self, stream: int, data: bytes, now: float) -> None:
        os.write(self._in, data)
        while self.writer.move(self._out, stream, now):
            pass

    def reopen(self) -> None:
        self.writer.close()
        self.writer = LogWriter(str(self.directory), **self._settings)

    def close(self) -> None:
        self.writer.close()
        os.close(self._out)
        os.close(self._in)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path)
    yield made
    made.close()


def read_all(reader: LogReader) -> list[Line]:
    lines: list[Line] = []
    while batch := reader.read():
        lines += batch
    return lines


def everything(directory: Path) -> list[Line]:
    reader = LogReader(directory)
    return read_all(reader) + list(reader.finish())


def test_lines_come_with_the_time_of_their_first_byte_and_their_stream(pipe: Pipe) -> None:
    pipe.write(STDOUT, b"one\ntw", 1.0)
    pipe.write(STDERR, b"oops\n", 2.0)
    pipe.write(STDOUT, b"o\n\nlast", 3.0)
    assert everything(pipe.directory) == [
        Line(1.0, LogStream.STDOUT, b"one"),
        Line(2.0, LogStream.STDERR, b"oops"),
        Line(1.0, LogStream.STDOUT, b"two"),
        Line(3.0, LogStream.STDOUT, b""),
        Line(3.0, LogStream.STDOUT, b"last"),
    ]


def test_since_and_streams_choose_lines(pipe: Pipe) -> None:
    for now in (1.0, 2.0, 3.0):
        pipe.write(STDOUT, b"out\n", now)
        pipe.write(STDERR, b"err\n", now)
    chosen = read_all(LogReader(pipe.directory, since=2.0, streams=(LogStream.STDERR,)))
    assert chosen == [Line(2.0, LogStream.STDERR, b"err"), Line(3.0, LogStream.STDERR, b"err")]


def test_a_reader_goes_on_where_it_stood(pipe: Pipe) -> None:
    reader = LogReader(pipe.directory)
    assert reader.read() == ()
    pipe.write(STDOUT, b"one\nhal", 1.0)
    assert [line.data for line in reader.read()] == [b"one"]
    assert reader.read() == ()
    pipe.write(STDOUT, b"f\n", 2.0)
    assert reader.read() == (Line(1.0, LogStream.STDOUT, b"half"),)
    assert reader.place == (pipe.writer.segment, pipe.writer.records)


def test_a_very_long_line_comes_in_pieces(pipe: Pipe) -> None:
    for _ in range(5):
        pipe.write(STDOUT, b"x" * (LINE_BYTES_MAX // 2), 1.0)
    pieces = [line.data for line in everything(pipe.directory)]
    assert [len(piece) for piece in pieces] == [LINE_BYTES_MAX, LINE_BYTES_MAX, LINE_BYTES_MAX // 2]


def test_old_segments_go_and_a_slow_reader_goes_on_with_the_oldest_that_is_left(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path, bytes_max=1000, files_max=2)
    reader = LogReader(tmp_path)
    pipe.write(STDOUT, b"first\n", 1.0)
    assert [line.data for line in reader.read()] == [b"first"]
    for number in range(100):
        pipe.write(STDOUT, f"line {number:03} {'-' * 90}\n".encode(), 2.0)
    assert len(segments(str(tmp_path))) == 2
    assert sum(path.stat().st_size for path in tmp_path.glob("log.??????")) <= 2 * 1000
    seen = [line.data[:8] for line in read_all(reader)]
    assert seen[-1] == b"line 099"
    assert 10 <= len(seen) < 30
    pipe.close()


def test_a_reader_follows_through_rotation_without_a_gap(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path, bytes_max=1024, files_max=3)
    reader = LogReader(tmp_path)
    seen: list[bytes] = []
    for number in range(500):
        pipe.write(STDOUT, f"line {number}\n".encode(), float(number))
        if number % 20 == 0:
            seen += [line.data for line in read_all(reader)]
    seen += [line.data for line in read_all(reader)]
    assert seen == [f"line {number}".encode() for number in range(500)]
    pipe.close()


def test_what_a_crash_left_without_a_record_is_not_lost(pipe: Pipe) -> None:
    pipe.write(STDERR, b"indexed\n", 1.0)
    with (pipe.directory / segment_name(1)).open("ab") as file:
        file.write(b"not yet\n")
    pipe.reopen()
    pipe.write(STDERR, b"after\n", 2.0)
    assert [(line.stream, line.data) for line in everything(pipe.directory)] == [
        (LogStream.STDERR, b"indexed"),
        (LogStream.STDOUT, b"not yet"),
        (LogStream.STDERR, b"after"),
    ]


@pytest.mark.parametrize("splices", [True, False])
def test_on_a_full_disk_output_is_dropped_and_counted_and_the_task_goes_on(pipe: Pipe, splices: bool) -> None:
    pipe.writer._can_splice = splices
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    pipe.write(STDOUT, b"before\n", 1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for _ in range(5):
            pipe.write(STDOUT, b"x" * 400, 2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    pipe.write(STDOUT, b"\nafter\n", 3.0)
    first, cut, last = (line.data for line in everything(pipe.directory))
    assert (first, last) == (b"before", b"after")
    assert len(cut) + pipe.writer.dropped_bytes == 5 * 400
    assert pipe.writer.dropped_bytes > 0


def test_half_a_record_is_not_read(pipe: Pipe) -> None:
    pipe.write(STDOUT, b"whole\n", 1.0)
    with (pipe.directory / index_name(1)).open("ab") as file:
        file.write(RECORD.pack(2.0, 100, STDOUT)[:10])
    assert [line.data for line in everything(pipe.directory)] == [b"whole"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([STDOUT, STDERR]), st.text("ab\n", min_size=1, max_size=60)), min_size=1, max_size=30
    ),
    bytes_max=st.sampled_from([16, 64, 4096]),
)
def test_every_byte_comes_back_in_its_stream(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, str]], bytes_max: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    pipe = Pipe(directory, bytes_max=bytes_max, files_max=10_000)
    for moment, (stream, text) in enumerate(pieces):
        pipe.write(stream, text.encode(), float(moment))
        if moment % 7 == 6:
            pipe.reopen()
    pipe.close()
    lines = everything(directory)
    for stream, name in STREAMS.items():
        written = "".join(text for kind, text in pieces if kind == stream)
        read = [line.data.decode() for line in lines if line.stream is name]
        assert read == (written.split("\n") if not written.endswith("\n") else written.split("\n")[:-1]) or (
            not written and not read
        )
