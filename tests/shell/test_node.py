"""The node's life with fake children (real processes, the real ca): start once, ready once, restarts, stop, and what stays behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.kit.bus.api import LocalAddress
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import FailedPrecondition, Unavailable
from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.messages import supervise
from services.kit.messages.method import Empty
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds
from services.supervisor.config import NodeSettings
from services.supervisor.core.plan import CHILDREN
from services.supervisor.shell.children import python_module
from services.supervisor.shell.node import Node, NodeEnded, NodeStage
from tests.support.ports import free_remote_api
from tests.support.running import eventually, run_async

FAKE = str(Path(__file__).parents[1] / "support" / "fake_child.py")


def command(name: str) -> list[str]:
    return python_module(name) if name == "ca" else [sys.executable, FAKE, name]


def new_node(state_dir: Path, **more: str) -> Node:
    settings = NodeSettings(state_dir=state_dir, listen_remote_api=free_remote_api(), log_level="debug", **more)  # type: ignore[arg-type]
    return Node(settings, clock=SystemClock(), ids=SystemIds(), rng=random.Random(1), command=command)


@asynccontextmanager
async def running(state_dir: Path) -> AsyncIterator[Node]:
    node = new_node(state_dir)
    node.start()
    try:
        await node.ready()
        yield node
    finally:
        await node.stop()


def behave(state_dir: Path, child: str, how: str) -> None:
    (state_dir / "behave").mkdir(parents=True, exist_ok=True)
    (state_dir / "behave" / child).write_text(how)


def pids(node: Node) -> dict[str, int]:
    return {each.process: each.pid for each in node.status().processes}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_fresh_node_gets_an_identity_becomes_ready_and_leaves_no_process(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as node:
            status = node.status()
            assert status.state == "ready"
            assert len(status.node_id) == len(status.cluster_id) == 25
            assert {each.process for each in status.processes} == set(CHILDREN)
            assert {each.state for each in status.processes} == {"ready"}
            left = pids(node)
        assert not any(alive(pid) for pid in left.values())
        assert node.stage is NodeStage.CLOSED
        assert await node.err() is None

    run_async(scene())
    assert {path.name for path in tmp_path.glob("stopped-*")} == {f"stopped-{c}" for c in CHILDREN if c != "ca"}
    assert not list((tmp_path / "run").glob("*.sock"))


def test_the_state_directory_has_the_modes_of_its_table(tmp_path: Path) -> None:
    async def scene() -> None:
        state = tmp_path / "s"
        async with running(state):
            modes = {
                path.relative_to(state).as_posix(): path.stat().st_mode & 0o777
                for path in [state, *state.glob("*"), *state.glob("certificates/*")]
            }
            expected = {
                ".": 0o700,
                "raft": 0o700,
                "run": 0o700,
                "worker": 0o700,
                "certificates": 0o755,
                "certificates/swarm-root-ca.crt": 0o644,
                "certificates/swarm-node.crt": 0o644,
                "certificates/swarm-node.key": 0o600,
            }
            assert {name: modes[name] for name in expected} == expected

    run_async(scene())


def test_a_restart_is_the_same_node(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as node:
            first = node.status()
        async with running(tmp_path) as node:
            again = node.status()
        assert (again.node_id, again.cluster_id) == (first.node_id, first.cluster_id)

    run_async(scene())


def test_a_node_starts_once_and_stops_as_often_as_one_likes(tmp_path: Path) -> None:
    async def scene() -> None:
        node = new_node(tmp_path)
        with pytest.raises(FailedPrecondition):
            await node.stop()
        node.start()
        with pytest.raises(FailedPrecondition):
            node.start()
        await node.stop()
        await node.stop()
        with pytest.raises(FailedPrecondition):
            node.start()
        with pytest.raises(Unavailable):
            await node.ready()
        assert await node.err() is None

    run_async(scene())


@pytest.mark.parametrize("child", CHILDREN)
def test_a_killed_child_is_started_again(tmp_path: Path, child: str) -> None:
    async def scene() -> None:
        async with running(tmp_path) as node:
            before = pids(node)
            os.kill(before[child], signal.SIGKILL)
            await eventually(lambda: pids(node)[child] not in {0, before[child]} and child in node.ready_children)
            others = {name: pid for name, pid in before.items() if name != child}
            assert {name: pid for name, pid in pids(node).items() if name != child} == others
            assert node.stage is NodeStage.READY

    run_async(scene())


def test_a_child_with_a_broken_invariant_is_said_to_have_one_and_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        behave(tmp_path, "dispatcher", "assert")
        node = new_node(tmp_path)
        node.start()
        await eventually(lambda: any(each.restarts >= 2 for each in node.status().processes), 20)
        (tmp_path / "behave" / "dispatcher").unlink()
        await node.ready()
        await node.stop()

    run_async(scene())
    said = capfd.readouterr().err
    assert "broken invariant" in said
    assert "told to break" in said


def test_a_child_that_cannot_be_helped_ends_the_node_with_the_reason(tmp_path: Path) -> None:
    async def scene() -> None:
        behave(tmp_path, "raft", "locked")
        node = new_node(tmp_path)
        node.start()
        error = await node.err()
        assert isinstance(error, NodeEnded)
        assert error.exit_code is ExitCode.LOCKED
        assert "raft" in str(error)
        with pytest.raises(NodeEnded):
            await node.ready()

    run_async(scene())


def test_a_stop_that_is_forced_does_not_wait_for_a_deaf_child(tmp_path: Path) -> None:
    async def scene() -> None:
        behave(tmp_path, "agent", "deaf")
        node = new_node(tmp_path)
        node.start()
        await node.ready()
        left = pids(node)
        node.begin_stop()
        await eventually(lambda: any(each.state == "stopping" for each in node.status().processes))
        node.force()
        await node.stop()
        assert not any(alive(pid) for pid in left.values())

    run_async(scene(), timeout_s=9)


def test_a_second_node_on_the_same_state_directory_is_refused(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as node:
            other = new_node(tmp_path)
            other.start()
            error = await other.err()
            assert isinstance(error, FailedPrecondition)
            assert str(os.getpid()) in str(error)
            assert node.stage is NodeStage.READY

    run_async(scene())


def test_a_taken_port_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scene() -> None:
        import socket

        state = tmp_path / "s"
        node = new_node(state)
        with socket.socket() as taken:
            taken.bind((node.ports.raft.host, node.ports.raft.port))
            taken.listen()
            node.start()
            error = await node.err()
        assert isinstance(error, FailedPrecondition)
        assert str(node.ports.raft) in str(error)
        assert not state.exists()

    run_async(scene())


def test_managers_that_were_seen_reach_every_child_and_the_disk(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as node:
            bus = ZmqBus(process="agent", clock=SystemClock())
            line = await bus.dial(LocalAddress(path=str(tmp_path / "run" / "supervisor.sock")))
            async with line.open(supervise.ORDERS, supervise.Attach(process="agent", pid=os.getpid())) as orders:
                first = await anext(orders)
                assert first.facts is not None
                assert [peer.node_id for peer in first.facts.managers] == [first.facts.node_id]
                peer = ManagerPeer(node_id=NodeId("other"), addr="10.0.0.2:4242", certificate=b"pem")
                await line.call(supervise.MANAGERS_SEEN, supervise.ManagersReport(managers=(peer,)))
                second = await anext(orders)
                assert second.facts is not None
                assert peer in second.facts.managers
            status = await line.call(supervise.STATUS, Empty())
            assert status == node.status()
            await bus.close()
        assert "10.0.0.2:4242" in (tmp_path / "state.json").read_text()
        async with running(tmp_path) as node:
            assert peer in node.known_managers

    run_async(scene())


def test_an_asked_for_stop_over_the_socket_stops_the_node(tmp_path: Path) -> None:
    async def scene() -> None:
        node = new_node(tmp_path)
        node.start()
        await node.ready()
        bus = ZmqBus(process="cli", clock=SystemClock())
        line = await bus.dial(LocalAddress(path=str(tmp_path / "run" / "supervisor.sock")))
        await line.call(supervise.STOP, Empty())
        assert await node.err() is None
        await bus.close()

    run_async(scene())


def test_a_stop_while_a_child_never_gets_ready_still_stops(tmp_path: Path) -> None:
    async def scene() -> None:
        behave(tmp_path, "agent", "slow")
        node = new_node(tmp_path)
        node.start()
        await eventually(lambda: "gateway" in node.ready_children)
        await asyncio.wait_for(node.stop(), 5)

    run_async(scene())


def test_a_refused_second_node_leaves_the_first_ones_files_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        node = new_node(tmp_path)
        node.start()
        await eventually((tmp_path / "run" / "supervisor.sock").exists)
        other = new_node(tmp_path)
        other.start()
        assert await other.err() is not None
        await node.ready()
        await node.stop()

    run_async(scene())
