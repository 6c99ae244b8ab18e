"""Three members of Debian's etcd on loopback and a small gRPC client of theirs, so that the store has somebody to be measured beside.

The client speaks just enough HTTP/2 to keep many unary calls under way on one connection without costing etcd the processor that both share. A
call has succeeded when its stream carried a message: a failed unary call has trailers only.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import urllib.request
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

ETCD = shutil.which("etcd") or "/usr/bin/etcd"
NAMES = ("a", "b", "c")
READY_S = 20.0
WINDOW = 1 << 30
FRAME_BYTES_MAX = 16384
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PUT, RANGE, TXN = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn"


def available() -> bool:
    """Tell whether etcd is installed."""
    return os.access(ETCD, os.X_OK)


# -- messages (protobuf, fields as in etcd's rpc.proto)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def put(key: bytes, value: bytes) -> bytes:
    """PutRequest."""
    return text(1, key) + text(2, value)


def read(key: bytes) -> bytes:
    """RangeRequest of one key, linearizable as is the default."""
    return text(1, key)


def create_two(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> bytes:
    """TxnRequest: when neither key exists, put both; what a transaction of two creates does here."""
    compares = b"".join(text(1, number(2, 1) + text(3, key) + number(5, 0)) for key, _ in (first, second))
    puts = b"".join(text(2, text(2, put(*pair))) for pair in (first, second))
    return compares + puts


class Failed(Exception):
    """The call has failed."""


class EtcdClient(asyncio.Protocol):
    """One connection with many unary calls under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._calls: dict[int, tuple[asyncio.Future[None], bool]] = {}
        self._next_stream = 1
        self._credit = 65535
        self._stuck: deque[tuple[int, bytes]] = deque()
        self._taken = 0

    @classmethod
    async def connect(cls, port: int) -> EtcdClient:
        """Return a connected client."""
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return client

    def call(self, method: str, request: bytes) -> asyncio.Future[None]:
        """Make a call; the future raises Failed."""
        assert self._transport is not None
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls[stream] = (future, False)
        self._transport.write(_frame(HEADERS, END_HEADERS, stream, _headers(method)))
        self._stuck.append((stream, b"\0" + struct.pack(">I", len(request)) + request))
        self._send_stuck()
        return future

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", 1, 0, 4, WINDOW)
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, settings))
        transport.write(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW)))

    def connection_lost(self, exc: Exception | None) -> None:
        for future, _ in self._calls.values():
            if not future.done():
                future.set_exception(Failed(f"connection lost: {exc}"))
        self._calls.clear()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        offset = 0
        while len(buffer) - offset >= 9:
            length = int.from_bytes(buffer[offset : offset + 3], "big")
            if len(buffer) - offset < 9 + length:
                break
            kind, flags = buffer[offset + 3], buffer[offset + 4]
            stream = int.from_bytes(buffer[offset + 5 : offset + 9], "big")
            self._take(kind, flags, stream, bytes(buffer[offset + 9 : offset + 9 + length]))
            offset += 9 + length
        del buffer[:offset]

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        assert self._transport is not None
        if kind == DATA:
            self._taken += len(body)
            if stream in self._calls:
                self._calls[stream] = (self._calls[stream][0], True)
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(_frame(PING, ACK, 0, body))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._credit += int.from_bytes(body, "big")
            self._send_stuck()
        if kind == RESET or (kind in {DATA, HEADERS} and flags & END_STREAM):
            self._end(stream)
        if self._taken > WINDOW // 2:
            self._transport.write(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._taken)))
            self._taken = 0

    def _end(self, stream: int) -> None:
        future, answered = self._calls.pop(stream, (None, False))
        if future is None or future.done():
            return
        if answered:
            future.set_result(None)
        else:
            future.set_exception(Failed("the call was refused"))

    def _send_stuck(self) -> None:
        assert self._transport is not None
        while self._stuck and self._credit >= len(self._stuck[0][1]):
            stream, body = self._stuck.popleft()
            assert len(body) <= FRAME_BYTES_MAX
            self._credit -= len(body)
            self._transport.write(_frame(DATA, END_STREAM, stream, body))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _headers(method: str) -> bytes:
    """HPACK: literals without indexing, so that nothing has to be remembered."""
    pairs = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "etcd"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode() for name, value in pairs
    )


class Etcd:
    """Three members; ``async with Etcd(directory) as etcd: client = await etcd.leader()``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        ports = _free_ports(len(NAMES) * 2)
        self.client_ports = dict(zip(NAMES, ports[::2], strict=True))
        self._peer_ports = dict(zip(NAMES, ports[1::2], strict=True))

    async def __aenter__(self) -> Self:
        for name in NAMES:
            await self.start(name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._processes):
            await self.kill(name)

    async def start(self, name: str) -> None:
        """Start a member with default settings, its log synced as ever."""
        cluster = ",".join(f"{each}=http://127.0.0.1:{port}" for each, port in self._peer_ports.items())
        client, peer = (f"http://127.0.0.1:{ports[name]}" for ports in (self.client_ports, self._peer_ports))
        arguments = {
            "name": name,
            "data-dir": str(self._directory / name),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": cluster,
            "log-level": "error",
        }
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                ETCD, *(f"--{key}={value}" for key, value in arguments.items()), stdout=log, stderr=log
            )

    async def kill(self, name: str) -> None:
        """End a member without warning."""
        process = self._processes.pop(name)
        process.kill()
        await process.wait()

    async def leader(self) -> EtcdClient:
        """Return a client of the member that leads, once there is one."""
        async with asyncio.timeout(READY_S):
            while True:
                for port in self.client_ports.values():
                    if await asyncio.to_thread(_leads, port):
                        return await EtcdClient.connect(port)
                await asyncio.sleep(0.05)


class _Header(msgspec.Struct):
    member_id: str


class _Status(msgspec.Struct):
    header: _Header
    leader: str = ""


def _leads(port: int) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/maintenance/status", data=b"{}")
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            status = msgspec.json.decode(answer.read(), type=_Status)
    except OSError:
        return False
    return status.leader == status.header.member_id


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
