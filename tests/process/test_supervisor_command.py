"""The supervisor command against wrong input: one clear message, a non-zero exit, and nothing changed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.bus.door import open_door
from services.kit.bus.identity import save_node, save_roots
from services.kit.bus.ports import node_ports
from services.kit.bus.zmq import ZmqBus
from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.messages.identity import DoorReply
from services.kit.model.tokens import make_token, root_digest
from services.kit.runtime.clock import SystemClock
from tests.support.pki import Authority
from tests.support.ports import free_remote_api
from tests.support.swarm import Swarm, processes_of, run_supervisor

pytestmark = pytest.mark.process
TOKEN = make_token(root_digest(b"another root"), bytes(range(16)))


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    yield path
    assert processes_of(path) == []


def refused(*arguments: str) -> tuple[int, str]:
    """Run a command that fails; returns its code and its one message."""
    done = run_supervisor(*arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("supervisor")]
    assert len(lines) == 1, done.stderr
    return done.returncode, lines[0]


def up(state_dir: Path, *more: str, listen: str | None = None) -> tuple[int, str]:
    listen = listen or free_remote_api()
    return refused("up", "--state-dir", str(state_dir), "--listen-remote-api", listen, *more)


def test_an_unknown_flag_is_refused_with_the_one_that_was_meant(state_dir: Path) -> None:
    code, said = refused("up", "--state-dri", str(state_dir))
    assert code == ExitCode.USAGE
    assert "did you mean --state-dir?" in said
    assert not state_dir.exists()


def test_wrong_values_are_all_named_at_once(state_dir: Path) -> None:
    code, said = up(state_dir, "--log-level", "loud", "--availability", "maybe", listen="nowhere")
    assert code == ExitCode.USAGE
    assert all(flag in said for flag in ("--log-level", "--availability", "--listen-remote-api"))
    assert not state_dir.exists()


def test_a_malformed_token_is_refused_before_anything_is_done(state_dir: Path) -> None:
    code, said = up(state_dir, "--join-addr", "127.0.0.1:1", "--join-token", "SWMTKN-1-abc")
    assert code == ExitCode.USAGE
    assert "not a join token" in said
    assert not state_dir.exists()


def test_a_token_without_an_address_is_refused(state_dir: Path) -> None:
    code, said = up(state_dir, "--join-token", TOKEN)
    assert code == ExitCode.USAGE
    assert "join_addr" in said
    assert TOKEN not in said


def test_a_state_directory_with_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    code, said = up(tmp_path / ("d" * 100))
    assert code == ExitCode.USAGE
    assert "bytes" in said


def test_a_taken_port_is_named_and_nothing_is_left(state_dir: Path) -> None:
    listen = free_remote_api()
    door = node_ports(listen).door
    with socket.socket() as taken:
        taken.bind(door)
        taken.listen()
        code, said = up(state_dir, listen=listen)
    assert code == ExitCode.LOCKED
    assert f"cannot listen on {door}" in said
    assert not state_dir.exists()


def test_a_state_directory_of_another_cluster_is_refused_and_kept(state_dir: Path) -> None:
    authority = Authority()
    node = authority.manager()
    save_roots(state_dir / "certificates", node.roots)
    save_node(state_dir / "certificates", node.key, node.certificate)
    before = {path: path.read_bytes() for path in state_dir.rglob("*") if path.is_file()}
    code, said = up(state_dir, "--join-addr", "127.0.0.1:1", "--join-token", TOKEN)
    assert code == ExitCode.LOCKED
    assert "another cluster" in said
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_identity_is_refused_and_kept(state_dir: Path) -> None:
    authority = Authority()
    node = authority.manager()
    save_roots(state_dir / "certificates", node.roots)
    save_node(state_dir / "certificates", node.key, node.certificate)
    (state_dir / "certificates" / "swarm-node.key").write_text("junk")
    code, said = up(state_dir)
    assert code == ExitCode.STORE_DAMAGED
    assert "swarm-node.key" in said
    assert (state_dir / "certificates" / "swarm-node.key").read_text() == "junk"


def test_a_root_that_is_not_the_tokens_is_refused(state_dir: Path) -> None:
    listen = free_remote_api()

    async def behind_a_wrong_door() -> tuple[int, str]:
        bus = ZmqBus(clock=SystemClock())
        door = await open_door(bus, node_ports(listen).door, DoorReply(roots=Authority().pem, managers=()))
        try:
            return await asyncio.to_thread(up, state_dir, "--join-addr", listen, "--join-token", TOKEN)
        finally:
            await door.close()
            await bus.close()

    code, said = asyncio.run(behind_a_wrong_door())
    assert code == ExitCode.IDENTITY_LOST
    assert "not the one of the join token" in said
    assert not state_dir.exists()


def test_a_state_directory_in_use_is_refused(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        node = swarm.node("n1").start(wait=False)
        node.wait_log("process started")
        code, said = up(node.state_dir)
        assert code == ExitCode.LOCKED
        assert "runs already" in said
        assert node.running


def test_down_and_status_without_a_node_say_so(state_dir: Path) -> None:
    for verb in ("down", "status"):
        code, said = refused(verb, "--state-dir", str(state_dir))
        assert code == ExitCode.UNREACHABLE
        assert str(state_dir) in said
