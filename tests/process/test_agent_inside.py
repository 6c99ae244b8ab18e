"""Users inside tasks, end to end: swarmctl on a terminal, through gateway, dispatcher and session, into a process and into a container."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.kit.model.specs import Annotations, ContainerSpec, EndpointSpec, PortConfig, ServiceSpec, TaskSpec
from services.kit.model.states import PublishMode, TaskState
from tests.support.docker_engine import IMAGE, docker_engine, missing
from tests.support.swarm import ROOT, SWARMCTL, Swarm, SwarmNode, clean_environment, wait_until

pytestmark = pytest.mark.process
WAIT_S = 30.0
SERVER = """
import os, socket
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("serving", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"<" + connection.makefile("rb").read() + b">")
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmNode]:
    with Swarm(tmp_path_factory.mktemp("inside")) as swarm:
        node = swarm.start("n1")
        port = PortConfig(name="web", target_port=80, publish_mode=PublishMode.HOST)
        run(node, "box", "process", ContainerSpec(command=("python3", "-c", SERVER), env=("COLOUR=red",)), port)
        yield node


def run(node: SwarmNode, name: str, driver: str, container: ContainerSpec, *ports: PortConfig) -> None:
    """Create a service of one task and wait until that runs."""
    spec = ServiceSpec(
        annotations=Annotations(name=name),
        task=TaskSpec(driver=driver, container=container),
        endpoint=EndpointSpec(ports=ports),
    )
    with node.client() as client:
        client.services.create(spec)
        wait_until(
            lambda: [task.status.state for task in client.services.tasks(name)] == [TaskState.RUNNING],
            f"{name} runs",
            60.0,
        )


def swarmctl(
    node: SwarmNode, *words: str, given: bytes = b"", timeout_s: float = WAIT_S
) -> subprocess.CompletedProcess[bytes]:
    """Run swarmctl with bytes on its standard input."""
    return subprocess.run(
        [*SWARMCTL, "-s", node.control_socket, *words],
        input=given,
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


class Terminal:
    """swarmctl on a terminal of its own."""

    def __init__(self, node: SwarmNode, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(30, 99)
        self.process = subprocess.Popen(
            [*SWARMCTL, "-s", node.control_socket, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**clean_environment(), "TERM": "vt100"},
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - the resize goes to its foreground
        )
        os.close(slave)
        self.said = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, text: bytes) -> None:
        """Wait until it says this, from here on."""

        def heard() -> bool:
            if select.select([self.master], [], [], 0)[0]:
                try:
                    self.said += os.read(self.master, 65536)
                except OSError:
                    assert text in self.said, self.said
            return text in self.said

        wait_until(heard, f"the terminal says {text!r}", WAIT_S)
        self.said = self.said.partition(text)[2]

    def end(self) -> int:
        code = self.process.wait(WAIT_S)
        os.close(self.master)
        return code


@contextmanager
def terminal(node: SwarmNode, *words: str) -> Iterator[Terminal]:
    shown = Terminal(node, *words)
    try:
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait(WAIT_S)


def test_a_command_runs_inside_with_its_streams_and_its_exit_code(node: SwarmNode) -> None:
    done = swarmctl(node, "exec", "box", "sh", "-c", "echo $COLOUR; echo no >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"red\n", b"no\n")
    data = os.urandom(1_000_000)
    done = swarmctl(
        node, "exec", "-i", "-e", "A=b", "-w", "/", "box.1", "--", "sh", "-c", "cat; pwd; echo $A", given=data
    )
    assert (done.returncode, done.stdout) == (0, data + b"/\nb\n")
    assert swarmctl(node, "exec", "box", "no-such-command").returncode != 0
    assert swarmctl(node, "exec", "nobody", "true").returncode == 3


def test_a_terminal_is_as_large_as_the_users_and_takes_every_key(node: SwarmNode) -> None:
    with terminal(node, "exec", "-it", "box", "sh") as shown:
        shown.type(b"stty size; echo $TERM-$((40 + 2))\n")
        shown.wait_for(b"30 99")
        shown.wait_for(b"vt100-42")
        shown.resize(20, 50)
        shown.type(b"while [ \"$(stty size)\" != '20 50' ]; do :; done; echo la''rger\n")
        shown.wait_for(b"larger")
        shown.type(b"sh -c \"echo sl''eeping; exec sleep 1000000\"\n")
        shown.wait_for(b"sleeping")
        shown.type(b"\x03")  # Ctrl-C is the command's, not swarmctl's
        shown.type(b"echo st''ill here\n")
        shown.wait_for(b"still here")
        shown.type(b"exit 9\n")
        assert shown.end() == 9


def test_files_go_in_and_come_out(node: SwarmNode, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "data").write_bytes(data)
    inside = tmp_path / "inside"
    inside.mkdir()
    assert swarmctl(node, "cp", str(tmp_path / "tree"), f"box:{inside}").returncode == 0
    assert (inside / "tree" / "sub" / "data").read_bytes() == data, "into a directory that is there"
    assert swarmctl(node, "cp", str(tmp_path / "tree" / "sub" / "data"), f"box:{inside}/other").returncode == 0
    assert (inside / "other").read_bytes() == data, "under a new name"
    out = tmp_path / "out"
    assert swarmctl(node, "cp", f"box:{inside}/tree", str(out)).returncode == 0
    assert (out / "sub" / "data").read_bytes() == data
    archive = swarmctl(node, "cp", f"box:{inside}/other", "-").stdout
    assert swarmctl(node, "cp", "-", f"box:{inside}/tree", given=archive).returncode == 0
    assert (inside / "tree" / "other").read_bytes() == data
    missing = swarmctl(node, "cp", f"box:{inside}/nothing", str(out))
    assert missing.returncode == 1
    assert b"nothing" in missing.stderr


def test_a_port_is_reached_through_the_swarm(node: SwarmNode) -> None:
    process = subprocess.Popen(
        [*SWARMCTL, "-s", node.control_socket, "port-forward", "box", "0:web"],
        stdout=subprocess.PIPE,
        env=clean_environment(),
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[0].rpartition(b":")[2])
        for word in (b"hello", b"again"):
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
                connection.sendall(word)
                connection.shutdown(socket.SHUT_WR)
                assert connection.makefile("rb").read() == b"<" + word + b">"
    finally:
        process.terminate()
        process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()


def test_what_a_task_uses_is_shown(node: SwarmNode) -> None:
    done = swarmctl(node, "stats", "--no-stream", "box")
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.decode().splitlines()
    assert header.split() == ["TASK", "CPU", "MEMORY", "PROCESSES"]
    assert row.startswith("box.1 ")
    assert "iB" in row


def test_who_went_into_a_task_is_in_its_history_before_anything_happens(node: SwarmNode) -> None:
    assert swarmctl(node, "exec", "-e", "TOKEN=secret", "box", "echo", "for the record").returncode == 0
    with node.client() as client:
        (task,) = client.services.tasks("box")
    said = node.swarmctl("history", task.id)
    assert f"user {os.getuid()} on" in said
    assert "exec: runs echo 'for the record'" in said
    assert "secret" not in said


def test_a_user_who_leaves_takes_the_command_along(node: SwarmNode, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    process = subprocess.Popen(
        [*SWARMCTL, "-s", node.control_socket, "exec", "box", "sh", "-c", f"echo $$ > {mark}; exec sleep 1000000"],
        env=clean_environment(),
        cwd=ROOT,
    )
    wait_until(lambda: mark.exists() and mark.read_text().strip(), "the command runs", WAIT_S)
    process.kill()
    process.wait(WAIT_S)
    wait_until(lambda: not Path(f"/proc/{mark.read_text().strip()}").exists(), "the command is gone", WAIT_S)


def test_output_waits_for_a_reader_that_rests_and_nothing_is_lost(node: SwarmNode) -> None:
    process = subprocess.Popen(
        [*SWARMCTL, "-s", node.control_socket, "exec", "box", "sh", "-c", "head -c 20000000 /dev/zero"],
        stdout=subprocess.PIPE,
        env=clean_environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    read = len(process.stdout.read(1))
    # Far longer than the dispatcher waits for a reader before it asks the agent to send again.
    select.select([], [], [], 7.0)
    read += len(process.stdout.read())
    process.stdout.close()
    assert process.wait(WAIT_S) == 0
    assert read == 20_000_000


def test_an_ended_task_lets_nobody_in(node: SwarmNode) -> None:
    run(node, "brief", "process", ContainerSpec(command=("sleep", "1000000")))
    with node.client() as client:
        (task,) = client.services.tasks("brief")
        client.services.remove("brief")
        wait_until(lambda: not client.tasks.list() or task.id not in {t.id for t in client.tasks.list()}, "it is gone")
    assert swarmctl(node, "exec", task.id, "true").returncode == 3


@pytest.mark.docker
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_container_is_entered_the_same_way(tmp_path: Path) -> None:
    with docker_engine() as engine, Swarm(tmp_path) as swarm:
        node = swarm.start("n1", "--engine-addr", f"unix://{engine.socket}")
        run(node, "shell", "docker", ContainerSpec(image=IMAGE, command=("sh",), tty=True, open_stdin=True))
        done = swarmctl(node, "exec", "-i", "shell", "sh", "-c", "cat; exit 5", given=b"in and out")
        assert (done.returncode, done.stdout) == (5, b"in and out")
        with terminal(node, "exec", "-it", "shell", "sh") as shown:
            shown.type(b"stty size; exit 3\n")
            shown.wait_for(b"30 99")
            assert shown.end() == 3
        with terminal(node, "attach", "shell") as shown:
            shown.wait_for(b"attached")
            shown.type(b"echo at''tached-$((40 + 2))\n")
            shown.wait_for(b"attached-42")
            shown.type(b"\x10\x11")
            shown.wait_for(b"no longer attached")
            assert shown.end() == 0
        (tmp_path / "file").write_bytes(b"copied")
        assert swarmctl(node, "cp", str(tmp_path / "file"), "shell:/tmp/").returncode == 0
        assert swarmctl(node, "exec", "shell", "cat", "/tmp/file").stdout == b"copied"
        assert b"shell.1" in swarmctl(node, "stats", "--no-stream", "shell").stdout
