"""Reads the engine's log stream: frames with a stream number, each one message that begins with its time. Pure; used by the docker driver."""

from __future__ import annotations

from services.agent.drivers.api import Line
from services.agent.drivers.docker_state import timestamp
from services.kit.model.states import LogStream

HEADER_BYTES = 8
LINE_BYTES_MAX = 1 << 20
"""A longer line is cut into pieces."""
_STREAMS = {1: LogStream.STDOUT, 2: LogStream.STDERR}


class LogReader:
    """Bytes in any pieces go in, lines come out."""

    def __init__(self, *, tty: bool = False) -> None:
        self._tty = tty
        self._buffer = bytearray()
        self._partial: dict[LogStream, tuple[float, bytes]] = {}

    def feed(self, data: bytes) -> tuple[Line, ...]:
        """Take bytes and return the lines that are complete now."""
        self._buffer += data
        return tuple(self._lines_of_terminal() if self._tty else self._lines_of_frames())

    def end(self) -> tuple[Line, ...]:
        """Return lines that never got their newline."""
        lines = tuple(Line(time, stream, data) for stream, (time, data) in self._partial.items())
        self._partial.clear()
        return lines

    def _lines_of_frames(self) -> list[Line]:
        lines: list[Line] = []
        while len(self._buffer) >= HEADER_BYTES:
            size = int.from_bytes(self._buffer[4:HEADER_BYTES], "big")
            if len(self._buffer) < HEADER_BYTES + size:
                break
            stream = _STREAMS.get(self._buffer[0], LogStream.STDOUT)
            message = bytes(self._buffer[HEADER_BYTES : HEADER_BYTES + size])
            del self._buffer[: HEADER_BYTES + size]
            lines += self._message(stream, message)
        return lines

    def _lines_of_terminal(self) -> list[Line]:
        lines: list[Line] = []
        while (end := self._buffer.find(b"\n")) >= 0:
            message = bytes(self._buffer[: end + 1])
            del self._buffer[: end + 1]
            lines += self._message(LogStream.STDOUT, message)
        return lines

    def _message(self, stream: LogStream, message: bytes) -> list[Line]:
        """Take one message; a long line comes as several, of which only the last ends with a newline."""
        stamp, _, data = message.partition(b" ")
        time, begun = self._partial.pop(stream, (timestamp(stamp.decode(errors="replace")), b""))
        whole = begun + data
        if whole.endswith(b"\n"):
            return [Line(time, stream, whole[:-1].removesuffix(b"\r") if self._tty else whole[:-1])]
        if len(whole) >= LINE_BYTES_MAX:
            return [Line(time, stream, whole)]
        self._partial[stream] = (time, whole)
        return []
