"""Users in tasks that are real processes: commands with a terminal, files in and out, ports, measurements."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.agent.taskd import stop_all
from services.kit.messages.exec import Attach, ForwardPort, Measure, ReadFiles, RunCommand, TerminalSize, WriteFiles
from services.kit.model.specs import ContainerSpec, EndpointSpec, PortConfig
from services.kit.model.states import LogStream, TaskState
from tests.support.agents import ScriptedDispatcher, make_spec, make_task, one_agent, task_id
from tests.support.running import eventually, run_async

pytestmark = pytest.mark.process
ONE = task_id(1)
SERVER = """
import os, socket
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("serving", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"<" + connection.makefile("rb").read() + b">")
"""


@asynccontextmanager
async def one_process(tmp_path: Path, *command: str) -> AsyncIterator[ScriptedDispatcher]:
    """Run an agent with one task; afterwards nothing of it is left."""
    (tmp_path / "run").mkdir(mode=0o700)
    try:
        async with one_agent(tmp_path, drivers=("process",)) as (_, dispatcher):
            ports = EndpointSpec(ports=(PortConfig(name="web", target_port=80),))
            container = ContainerSpec(command=command, env=("COLOUR=red",))
            dispatcher.assign(make_task(), specs=(make_spec("process", container=container, endpoint=ports),))
            await dispatcher.saw(ONE, TaskState.RUNNING)
            yield dispatcher
    finally:
        assert stop_all.main(["", str(tmp_path / "worker"), str(tmp_path / "run" / "taskd.sock"), "0"]) == 0


def test_a_shell_with_a_terminal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_process(tmp_path, "sleep", "1000000") as dispatcher:
            conversation = dispatcher.go_inside(ONE, RunCommand(argv=("sh",), terminal=True, input=True))
            dispatcher.tell(conversation, size=TerminalSize(rows=30, columns=99))
            dispatcher.tell(conversation, b"stty size; tty; echo $COLOUR-$((40+2))\n")
            await eventually(lambda: b"red-42" in dispatcher.heard(conversation))
            dispatcher.tell(conversation, b"exit 7\n")
            assert (await dispatcher.ended(conversation)).exit_code == 7
            said = dispatcher.heard(conversation)
            assert b"30 99" in said
            assert b"/dev/pts/" in said

    run_async(scenario())


def test_files_go_in_and_come_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_process(tmp_path, "sleep", "1000000") as dispatcher:
            data = os.urandom(1_000_000)
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                entry = tarfile.TarInfo("sub/data")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            place = tmp_path / "place"
            place.mkdir()
            going = dispatcher.go_inside(ONE, WriteFiles(path=str(place)))
            archive = packed.getvalue()
            for start in range(0, len(archive), 60_000):
                dispatcher.tell(going, archive[start : start + 60_000])
            dispatcher.tell(going, ended=True)
            assert (await dispatcher.ended(going)).exit_code == 0
            assert (place / "sub" / "data").read_bytes() == data
            coming = dispatcher.go_inside(ONE, ReadFiles(path=str(place / "sub")))
            assert (await dispatcher.ended(coming)).exit_code == 0
            with tarfile.open(fileobj=io.BytesIO(dispatcher.heard(coming))) as tar:
                file = tar.extractfile("sub/data")
                assert file is not None
                assert file.read() == data
            missing = dispatcher.go_inside(ONE, ReadFiles(path="/no/such/place"))
            assert (await dispatcher.ended(missing)).exit_code not in {0, None}
            assert b"/no/such" in dispatcher.heard(missing, LogStream.STDERR)

    run_async(scenario())


def test_a_port_is_reached_and_the_task_is_measured_and_watched(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_process(tmp_path, "python3", "-c", SERVER) as dispatcher:
            watching = dispatcher.go_inside(ONE, Attach())

            async def ask() -> bytes:
                tunnel = dispatcher.go_inside(ONE, ForwardPort(port="web"))
                dispatcher.tell(tunnel, b"hello", ended=True)
                await dispatcher.ended(tunnel)
                return dispatcher.heard(tunnel)

            async with asyncio.timeout(10):
                while await ask() != b"<hello>":
                    continue  # the server is on its way
            measuring = dispatcher.go_inside(ONE, Measure(interval_s=0.01))
            await eventually(lambda: len(dispatcher.said[measuring]) >= 2)
            first = dispatcher.said[measuring][0].measured
            assert first is not None
            assert first.memory_bytes > 0
            dispatcher.leave(measuring, ONE, Measure())
            dispatcher.assign(make_task(desired=TaskState.SHUTDOWN))
            assert (await dispatcher.ended(watching)).error == ""

    run_async(scenario())
