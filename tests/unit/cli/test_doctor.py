"""What the doctor makes of what it sees."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.cli.doctor import machine, network
from services.cli.doctor.examination import certificate_finding, how_many, process_findings
from services.cli.doctor.findings import Finding, Level, lines
from services.kit.bus.ports import node_ports
from services.kit.messages.supervise import ProcessStatus, StatusReply
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.clock import SystemClock
from tests.support.ports import free_remote_api


def levels(findings: Iterator[Finding]) -> list[Level]:
    return [each.level for each in findings]


def worst(findings: Iterator[Finding]) -> Level:
    found = set(levels(findings))
    return next(level for level in (Level.PROBLEM, Level.WARNING, Level.FINE) if level in found)


def status(*processes: ProcessStatus, state: str = "ready") -> StatusReply:
    return StatusReply(
        node_id=NodeId("n"),
        cluster_id=ClusterId("c"),
        role=Role.MANAGER,
        state=state,
        pid=1,
        remote_addr="127.0.0.1:4242",
        control_socket="/c",
        processes=processes,
    )


def process(name: str, state: str = "ready", restarts: int = 0) -> ProcessStatus:
    return ProcessStatus(process=name, pid=2, state=state, restarts=restarts, since=0.0)


def test_a_state_directory_that_is_open_to_others_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = next(iter(machine.state_findings(tmp_path)))
    assert (found.level, found.mend) == (Level.PROBLEM, f"chmod 700 {tmp_path}")
    tmp_path.chmod(0o700)
    assert next(iter(machine.state_findings(tmp_path))).level is Level.FINE


def test_a_key_that_others_can_read_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "certificates").mkdir()
    key = tmp_path / "certificates" / "swarm-node.key"
    key.write_text("secret")
    key.chmod(0o644)
    assert any(each.level is Level.PROBLEM and str(key) in each.what for each in machine.state_findings(tmp_path))


def test_a_state_directory_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    assert next(iter(machine.state_findings(tmp_path / "a" / "b"))).level is Level.FINE


def test_a_file_in_place_of_the_state_directory_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert worst(machine.state_findings(tmp_path / "file")) is Level.PROBLEM


def test_measuring_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    assert "durable write" in next(iter(machine.sync_findings(tmp_path, SystemClock()))).what
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_writes_is_a_problem() -> None:
    assert worst(machine.sync_findings(Path("/proc"), SystemClock())) is Level.PROBLEM


@contextlib.contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.recv(1000)
                line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    ("answer", "level"),
    [(b"HTTP/1.0 200 OK\r\n\r\nOK", Level.FINE), (b"HTTP/1.0 404 no\r\n\r\n", Level.PROBLEM), (b"", Level.PROBLEM)],
)
def test_only_what_answers_as_an_engine_is_one(tmp_path: Path, answer: bytes, level: Level) -> None:
    with answering(tmp_path / "e", answer):
        assert worst(machine.engine_findings(f"unix://{tmp_path}/e")) is level


def test_no_engine_is_nothing_wrong_and_a_dead_one_is(tmp_path: Path) -> None:
    assert worst(machine.engine_findings(f"unix://{tmp_path}/none")) is Level.FINE
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert worst(machine.engine_findings(f"unix://{tmp_path}/dead")) is Level.PROBLEM


def test_a_taken_port_is_told_with_who_has_it() -> None:
    ports = node_ports(free_remote_api())
    assert worst(network.free_port_findings(ports)) is Level.FINE
    with socket.create_server(("127.0.0.1", ports.door.port)):
        (found,) = network.free_port_findings(ports)
    assert found.level is Level.PROBLEM
    assert str(ports.door.port) in found.what
    assert "process" in found.what


def test_an_address_of_this_machine_only_is_a_warning_and_a_name_without_address_a_problem() -> None:
    assert worst(network.address_findings("127.0.0.1:4242", "", ())) is Level.WARNING
    assert worst(network.address_findings("127.0.0.1:4242", "no-such-name.invalid:4242", ())) is Level.PROBLEM


@pytest.mark.parametrize(
    ("skew_s", "level", "word"),
    [
        (0.2, Level.FINE, "ahead of"),
        (-5.0, Level.WARNING, "behind"),
        (60.0, Level.PROBLEM, "ahead of"),
        (-3600.0, Level.PROBLEM, "behind"),
    ],
)
def test_clocks_that_differ_are_the_worse_the_more_they_do(skew_s: float, level: Level, word: str) -> None:
    found = network.skew_finding("10.0.0.1:4242", skew_s)
    assert found.level is level
    assert word in found.what


@pytest.mark.parametrize(
    ("now", "level"), [(50.0, Level.PROBLEM), (150.0, Level.FINE), (185.0, Level.WARNING), (200.0, Level.PROBLEM)]
)
def test_a_certificate_is_looked_at_by_the_clock(now: float, level: Level) -> None:
    identity = SimpleNamespace(role="swarm-worker", node_id="n", not_before=100.0, not_after=200.0)
    assert certificate_finding(identity, now).level is level  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "level"), [(1, Level.WARNING), (2, Level.WARNING), (3, Level.FINE), (4, Level.WARNING), (5, Level.FINE)]
)
def test_numbers_of_managers_are_judged_by_what_they_survive(number: int, level: Level) -> None:
    peers = tuple(ManagerPeer(node_id=NodeId(str(each)), addr="10.0.0.1:4242") for each in range(number))
    assert levels(how_many(peers)) == [level]


def test_restless_absent_and_locked_processes_are_told() -> None:
    assert worst(process_findings(status(process("raft"), process("ca")))) is Level.FINE
    assert worst(process_findings(status(process("raft", restarts=5)))) is Level.WARNING
    assert worst(process_findings(status(process("raft", state="backing-off")))) is Level.WARNING
    (locked,) = process_findings(status(process("raft", state="stopped"), state="locked"))
    assert (locked.level, "unlock" in locked.mend) == (Level.PROBLEM, True)


def test_the_last_line_counts_what_is_wrong() -> None:
    wrong = Finding(about="disk", level=Level.PROBLEM, what="full", mend="make room")
    text = "\n".join(lines([wrong]))
    assert "→ make room" in text
    assert text.endswith("1 problems, 0 warnings")
    assert list(lines([]))[-1] == "nothing is wrong"
