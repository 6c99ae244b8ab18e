"""The protocol between taskd and its client: JSON objects, each behind its length in four bytes, on a Unix stream socket.

A request is ``{"seq": n, "op": name, …}``; its answer carries the same ``seq`` and either ``"result"`` or ``"error"`` with a ``"kind"``.
After ``subscribe`` a connection also gets ``{"event": "exit", "task": …}`` for every end. Answers may come in any order: ``wait``, ``stop``,
``kill``, ``remove`` and ``stop_all`` answer when it has happened. Every request may be sent again after a lost connection.

    version                              what this taskd is
    start(spec)                          start a task, or say what became of the one with this id
    inspect(id) · list(after)            one task; up to LIST_MAX tasks in the order of their ids
    wait(id)                             how it ended
    signal(id, number)                   to its main process
    stop(id, grace_s, number)            the stop signal (0: the spec's), then SIGKILL for everything in it
    kill(id) · remove(id)                SIGKILL for everything in it; the same, and forget it with its directory
    await_log(id, segment, records)      answer when there are more than so many index records, or a later segment, or an end
    stats(id)                            what it uses
    subscribe                            tell this connection about every end
    reexec(executable, main)             become a newer taskd in place
    quit · quit_when_empty               end now (refused while tasks live); end as soon as no task lives
    stop_all(grace_s)                    stop and remove every task, then end
"""

from __future__ import annotations

import json
import struct

from services.agent.taskd.records import BadRecord, Json, read_object

PROTOCOL = 1
FRAME_BYTES_MAX = 1 << 20
LIST_MAX = 500
_LENGTH = struct.Struct("!I")

NOT_FOUND = "not-found"
INVALID = "invalid"
FAILED = "failed"
"""The system refused: the message says why."""
BUSY = "busy"


def pack(message: Json) -> bytes:
    """Return a message as it goes over the socket."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > FRAME_BYTES_MAX:
        raise BadRecord(f"a message of {len(body)} bytes is over the limit of {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Cuts a byte stream into messages; holds at most one frame and a read more."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Json]:
        """Take more bytes and return the messages they complete; raises BadRecord, after which the stream is of no use."""
        self._buffer += data
        messages: list[Json] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX:
                raise BadRecord(f"a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(read_object(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages
