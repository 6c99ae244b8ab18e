"""Log lines as Docker streams them: frames with the stream's number and length in front, or bare lines."""

from __future__ import annotations

import struct

from services.kit.messages.logs import LogLine
from services.kit.model.states import LogStream
from services.web.core.times import rfc3339

_NUMBER = {LogStream.STDOUT: 1, LogStream.STDERR: 2}
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"
_SWARM = "com.docker.swarm"


def log_bytes(line: LogLine, *, timestamps: bool, details: bool, tty: bool) -> bytes:
    """Return one line as bytes of the stream."""
    text = line.data + b"\n"
    if details:
        facts = {"node": line.node_id, "service": line.service_id, "task": line.task_id}
        text = ",".join(f"{_SWARM}.{noun}.id={value}" for noun, value in facts.items()).encode() + b" " + text
    if timestamps:
        text = rfc3339(line.timestamp).encode() + b" " + text
    if tty:
        return text
    return struct.pack(">BxxxL", _NUMBER[line.stream], len(text)) + text
