"""The data plane as a real process, with real sockets: what clients of a published port may rely on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest

from services.gateway.plane.channel import Channel, ChannelLost
from services.gateway.plane.messages import Counts, Held, Hello, Holding, Message, Retire
from services.gateway.shell.listeners import listen
from services.kit.model.states import Protocol
from tests.support.plane_home import (
    HOST,
    Plane,
    Visitor,
    backend,
    descriptors,
    free_port,
    gone,
    plane,
    route,
    serving,
    tasks,
    visit,
)
from tests.support.running import DEADLINE_S, eventually, run_async

pytestmark = pytest.mark.process


def test_every_task_of_a_port_gets_its_share(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path, workers=2) as running, tasks(*[f"t{n}" for n in range(12)]) as tasks_:
            await running.show(route(port, *[task.backend() for task in tasks_]))
            answers = Counter(await asyncio.gather(*(visit(port) for _ in range(240))))
            assert set(answers) == {task.name for task in tasks_}
            assert max(answers.values()) < 3 * 240 / len(tasks_)

    run_async(scenario())


def test_a_dead_task_costs_no_client_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a", "b", "c", "dead") as tasks_:
            await running.show(route(port, *[task.backend() for task in tasks_]))
            await tasks_[3].close()
            answers = Counter([await visit(port) for _ in range(200)])
            assert set(answers) == {"a", "b", "c"}
            (counts,) = await running.keeper.counts()
            assert counts.worker["refused"] == 0
            assert counts.tasks["dead"]["failures"] >= 3
            assert counts.tasks["dead"]["ejections"] >= 1
            assert sum(counts.connects["dead"][1:]) == 0
            assert sum(sum(counts.connects[name][1:]) for name in "abc") == 200
            await tasks_[3].open()

    run_async(scenario())


def test_a_task_that_died_without_a_word_costs_no_client_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        hole, fillers = _black_hole()
        try:
            async with plane(tmp_path) as running, tasks("a", "b", "c") as tasks_:
                silent = backend("silent", hole.getsockname()[1])
                await running.show(route(port, silent, *[task.backend() for task in tasks_]))
                answers = Counter(await asyncio.gather(*(visit(port) for _ in range(40))))
                assert set(answers) <= {"a", "b", "c"}
                loop = asyncio.get_running_loop()
                before = loop.time()
                for _ in range(40):
                    await visit(port)
                assert loop.time() - before < 0.9, "an ejected task is not tried while its time lasts"
        finally:
            hole.close()
            for filler in fillers:
                filler.close()

    run_async(scenario())


def test_a_port_without_tasks_accepts_and_closes_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running:
            await running.show(route(port))
            visitor = await Visitor.come(port)
            assert await visitor.reader.read() == b""
            await visitor.leave()

    run_async(scenario())


def test_a_draining_task_keeps_its_connections_and_gets_no_new_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("old", "new") as (old, new):
            await running.show(route(port, old.backend()))
            visitor = await Visitor.come(port)
            assert await visitor.ask() == "old"
            await running.show(route(port, old.backend(draining=True), new.backend()))
            assert running.confirmations[-1] == (2, {"old": 1})
            assert {await visit(port) for _ in range(20)} == {"new"}
            assert await visitor.ask() == "old"
            await visitor.leave()
            await eventually(lambda: running.confirmations[-1] == (2, {"old": 0}))

    run_async(scenario())


def test_a_task_that_left_the_table_is_reported_until_its_last_connection_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("old", "new") as (old, new):
            await running.show(route(port, old.backend()))
            visitor = await Visitor.come(port)
            assert await visitor.ask() == "old"
            await running.show(route(port, new.backend()))
            assert running.confirmations[-1] == (2, {"old": 1})
            assert await visitor.ask() == "old"
            await visitor.leave()
            await eventually(lambda: running.confirmations[-1] == (2, {}))

    run_async(scenario())


def test_half_a_close_leaves_the_other_half_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend()))
            visitor = await Visitor.come(port)
            visitor.writer.write(b"one\ntwo\n")
            visitor.writer.write_eof()
            assert await visitor.reader.read() == b"a:one\na:two\nbye\n"
            await visitor.leave()

    run_async(scenario())


def test_a_reset_in_the_middle_is_passed_on_as_a_reset(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()

        async def reset_midway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"half of the ans")
            await writer.drain()
            await reader.readline()
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        async with plane(tmp_path) as running, serving(reset_midway) as task_port:
            await running.show(route(port, backend("a", task_port)))
            visitor = await Visitor.come(port)
            visitor.writer.write(b"question\n")
            assert await visitor.reader.readexactly(15) == b"half of the ans"
            visitor.writer.write(b"now\n")
            with pytest.raises(ConnectionResetError):
                await visitor.reader.read()
            await visitor.leave()

    run_async(scenario())


@pytest.mark.parametrize("size", [10, 65_536, 9_000_001, 40_000_000])
def test_bulk_arrives_whole_in_both_directions_at_once(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    digest = hashlib.sha256(content).hexdigest()

    async def scenario() -> None:
        port = free_port()
        seen: list[str] = []

        async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sending = asyncio.gather(_send_all(writer, content))
            seen.append(await _digest(reader))
            await sending

        async with plane(tmp_path) as running, serving(exchange) as task_port:
            await running.show(route(port, backend("a", task_port)))
            before = descriptors(running.pids[0])
            visitor = await Visitor.come(port)
            sending = asyncio.gather(_send_all(visitor.writer, content))
            assert await _digest(visitor.reader) == digest
            await sending
            await eventually(lambda: seen == [digest])
            await visitor.leave()
            pipes_kept = 2 * 2
            await eventually(lambda: descriptors(running.pids[0]) <= before + pipes_kept)

    run_async(scenario(), timeout_s=60)


def test_a_client_that_does_not_read_takes_no_memory_and_stops_nobody(tmp_path: Path) -> None:
    size = 200_000_000

    async def scenario() -> None:
        port = free_port()
        sent = 0

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            block = bytes(1 << 20)
            while sent < size:
                writer.write(block)
                await writer.drain()
                sent += len(block)

        other_port = free_port()
        async with plane(tmp_path) as running, serving(pour) as task_port, tasks("a") as (task,):
            await running.show(route(port, backend("bulk", task_port)), route(other_port, task.backend()))
            before = _resident_bytes(running.pids[0])
            lazy = socket.create_connection((HOST, port))
            await eventually(lambda: sent > 0)
            assert {await visit(other_port) for _ in range(50)} == {"a"}
            assert sent < size, "the task is held back by its slow reader"
            assert _resident_bytes(running.pids[0]) - before < 4 << 20
            lazy.close()

    run_async(scenario())


def test_a_killed_worker_is_replaced_and_newcomers_only_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend()))
            first = running.pids[0]
            os.kill(first, signal.SIGKILL)
            answers = await asyncio.gather(*(visit(port) for _ in range(30)))
            assert set(answers) == {"a"}
            assert running.pids[0] != first

    run_async(scenario())


def test_a_gateways_crash_costs_no_connection_and_its_successor_takes_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with tasks("a", "b") as (a, b):
            crashed = Plane(tmp_path)
            await crashed.keeper.start()
            await crashed.show(route(port, a.backend()))
            pid = crashed.pids[0]
            visitor = await Visitor.come(port)
            assert await visitor.ask() == "a"
            await crashed.keeper.detach()
            assert await visitor.ask() == "a"
            assert await visit(port) == "a", "the plane goes on without a gateway"
            async with plane(tmp_path) as successor:
                assert successor.pids == [pid], "the living worker is adopted"
                assert await visit(port) == "a", "what the plane knows is kept until there is a table"
                await successor.show(route(port, b.backend()))
                assert await visit(port) == "b"
                assert await visitor.ask() == "a"
                await visitor.leave()
                os.kill(pid, signal.SIGKILL)
                assert await visit(port) == "b", "the successor has its own copy of the listener"

    run_async(scenario())


def test_a_plane_that_nobody_asks_for_ends_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with tasks("a") as (task,):
            lonely = Plane(tmp_path, orphan_s=0.2)
            await lonely.keeper.start()
            await lonely.show(route(port, task.backend()))
            pid = lonely.pids[0]
            await lonely.keeper.detach()
            await gone(pid)
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)
            assert not [name for name in os.listdir(tmp_path) if name.endswith(".sock")]

    run_async(scenario())


def test_a_drain_refuses_newcomers_finishes_what_is_open_and_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with tasks("a") as (task,):
            leaving = Plane(tmp_path)
            await leaving.keeper.start()
            await leaving.show(route(port, task.backend()))
            pid = leaving.pids[0]
            busy, idle = await Visitor.come(port), await Visitor.come(port)
            await busy.ask()
            await idle.ask()
            draining = asyncio.gather(leaving.keeper.drain(8.0))
            loop = asyncio.get_running_loop()
            began = loop.time()
            while idle.reader.at_eof() is False and loop.time() - began < 5:
                assert await busy.ask() == "a"
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.05)
            assert await idle.reader.read() == b"", "a connection between two requests is closed politely"
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)
            assert await busy.ask() == "a"
            await busy.leave()
            await idle.leave()
            await draining
            await gone(pid)

    run_async(scenario())


def test_a_port_of_another_program_is_reported_and_opened_when_it_is_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, other_port = free_port(), free_port()
        with socket.socket() as squatter:
            squatter.bind((HOST, port))
            squatter.listen()
            async with plane(tmp_path) as running, tasks("a") as (task,):
                await running.show(route(port, task.backend()), route(other_port, task.backend()))
                assert running.keeper.closed_ports == {f"{port}/tcp": "Address already in use"}
                assert await visit(other_port) == "a"
                squatter.close()
                await eventually(lambda: not running.keeper.closed_ports)
                assert await visit(port) == "a"

    run_async(scenario())


def test_a_route_that_is_gone_closes_its_port(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, other_port = free_port(), free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend()), route(other_port, task.backend()))
            await running.show(route(other_port, task.backend()))
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)
            assert await visit(other_port) == "a"

    run_async(scenario())


def test_two_nodes_on_one_address_share_a_port(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        async with plane(tmp_path / "1") as one, plane(tmp_path / "2") as two, tasks("a") as (task,):
            await one.show(route(port, task.backend()))
            await two.show(route(port, task.backend()))
            assert not two.keeper.closed_ports
            assert {await visit(port) for _ in range(60)} == {"a"}
            accepted = [(await each.keeper.counts())[0].worker["accepted"] for each in (one, two)]
            assert sum(accepted) == 60
            assert min(accepted) > 5

    run_async(scenario())


def test_no_descriptor_is_left_after_many_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a", "dead") as (task, dead):
            await running.show(route(port, task.backend(), dead.backend()))
            await dead.close()
            await visit(port)
            await _all_ended(running)
            before = descriptors(running.pids[0])
            for _ in range(10):
                await asyncio.gather(*(visit(port) for _ in range(30)))
            counts = await _all_ended(running)
            assert all(numbers["open"] == 0 for numbers in counts.tasks.values())
            assert descriptors(running.pids[0]) <= before
            await dead.open()

    run_async(scenario())


def test_a_worker_of_another_version_hands_its_listeners_over_and_retires(tmp_path: Path) -> None:
    """The old worker is played by the test: it answers plane.sock and holds the listener of a port."""

    async def scenario() -> None:
        port = free_port()
        door = socket.socket(socket.AF_UNIX)
        door.bind(str(tmp_path / "plane.sock"))
        door.listen(1)
        listener = listen(HOST, port, Protocol.TCP)
        early = asyncio.gather(visit(port))
        async with tasks("a") as (task,):
            running = Plane(tmp_path)
            starting = asyncio.gather(running.keeper.start())
            door.setblocking(False)
            old, _ = await asyncio.get_running_loop().sock_accept(door)
            channel = Channel(old)
            channel.send(Hello(0, os.getpid(), 0))
            channel.send(Holding(f"{port}/tcp@{HOST}"), listener)
            channel.send(Held())
            told: list[Message] = []
            await eventually(lambda: _hears(channel, told))
            assert isinstance(told[0], Retire)
            listener.close()
            channel.close()
            door.close()
            await starting
            await running.show(route(port, task.backend()))
            assert list(await early) == ["a"], "who knocked at the old worker is served by the new one"
            pid = running.pids[0]
            await running.keeper.drain(0.2)
            await gone(pid)

    run_async(scenario())


async def _all_ended(running: Plane) -> Counts:
    """Wait until no connection is open, and return the numbers."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            (counts,) = await running.keeper.counts()
            if counts.worker["open"] == 0:
                return counts


def _hears(channel: Channel, told: list[Message]) -> bool:
    try:
        told += [message for message, _ in channel.receive()]
    except ChannelLost:
        assert told, "left without a word"
    return bool(told)


def _black_hole() -> tuple[socket.socket, list[socket.socket]]:
    """Return a listener whose queue is full, so that the kernel drops what else comes, and what fills it."""
    hole = socket.socket()
    hole.bind((HOST, 0))
    hole.listen(0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(hole.getsockname())
        fillers.append(filler)
    return hole, fillers


async def _send_all(writer: asyncio.StreamWriter, content: bytes) -> None:
    for start in range(0, len(content), 1 << 18):
        writer.write(content[start : start + (1 << 18)])
        await writer.drain()
    writer.write_eof()


async def _digest(reader: asyncio.StreamReader) -> str:
    digest = hashlib.sha256()
    while block := await reader.read(1 << 18):
        digest.update(block)
    return digest.hexdigest()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
