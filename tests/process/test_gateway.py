"""The gateway as a real process: its doors, its route table, and what its end costs."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from services.kit.bus.api import RemoteAddress
from services.kit.bus.ports import parse_address
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import SwarmError
from services.kit.messages import control, routes
from services.kit.messages.method import Empty
from services.kit.messages.routes import RouteTable
from services.kit.runtime.clock import SystemClock
from tests.support.gateway_home import GatewayHome, full, gateway, plane_pids
from tests.support.pki import Authority
from tests.support.plane_home import Visitor, free_port, gone, is_zombie, route, tasks, visit
from tests.support.running import eventually, run_async

pytestmark = pytest.mark.process


def test_a_gateway_follows_the_table_confirms_it_and_tells_what_it_carried(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, other_port = free_port(), free_port()
        async with gateway(tmp_path / "n1") as home, tasks("a", "b") as (a, b):
            home.show(full(5, route(port, a.backend())))
            await home.acted_on(5)
            assert home.watchers[0].caller.node_id == "m1"
            assert await visit(port) == "a"
            home.show(RouteTable(epoch=6, full=False, routes=(route(other_port, b.backend()),)))
            await home.acted_on(6)
            assert await visit(other_port) == "b"
            home.show(RouteTable(epoch=7, full=False, removed=(f"{port}/tcp",)))
            await home.acted_on(7)
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)
            user = await home.user()
            status = await user.call(routes.STATUS, Empty())
            assert (status.epoch, status.workers, status.accepted, status.open) == (7, 1, 2, 0)
            assert [(task.task_id, task.connections) for task in status.tasks] == [("b", 1)]
            assert (await user.call(control.VERSION, Empty())).node_id == "m1"
            await user.close()

    run_async(scenario())


def test_a_gap_in_the_table_is_closed_by_a_full_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with gateway(tmp_path / "n1") as home, tasks("a", "b") as (a, b):
            home.show(full(1, route(port, a.backend())))
            await home.acted_on(1)
            home.show(RouteTable(epoch=9, full=False, routes=(route(port, b.backend()),)))
            await eventually(lambda: len(home.watchers) >= 2)
            home.show(full(10, route(port, b.backend())))
            await home.acted_on(10)
            assert await visit(port) == "b"

    run_async(scenario())


def test_a_crash_of_the_gateway_costs_no_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with gateway(tmp_path / "n1") as home, tasks("a", "b") as (a, b):
            home.show(full(1, route(port, a.backend())))
            await home.acted_on(1)
            (pid,) = plane_pids(home.run_dir)
            visitor = await Visitor.come(port)
            assert await visitor.ask() == "a"
            await home.crash()
            assert await visitor.ask() == "a"
            assert await visit(port) == "a"
            home.show(full(1, route(port, b.backend())))
            await home.start()
            await eventually(lambda: len(home.acks) >= 2)
            assert await visit(port) == "b"
            assert await visitor.ask() == "a"
            assert plane_pids(home.run_dir) == {pid}
            await visitor.leave()

    run_async(scenario())


def test_a_node_that_stops_takes_its_data_plane_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with gateway(tmp_path / "n1") as home, tasks("a") as (task,):
            home.show(full(1, route(port, task.backend())))
            await home.acted_on(1)
            (pid,) = plane_pids(home.run_dir)
            assert await home.drain() == 0
            assert is_zombie(pid)
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)
            assert not _doors(home)

    run_async(scenario())


def test_when_only_the_supervisor_dies_the_data_plane_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with gateway(tmp_path / "n1") as home, tasks("a") as (task,):
            await home.crash()
            await home.start("sh", "-c", '"$@" & wait', "sh")
            home.show(full(1, route(port, task.backend())))
            await home.acted_on(1)
            visitor = await Visitor.come(port)
            assert await visitor.ask() == "a"
            (child,) = _children(home)
            (pid,) = plane_pids(home.run_dir)
            await home.crash()
            await gone(child)
            assert await visitor.ask() == "a"
            assert await visit(port) == "a"
            assert plane_pids(home.run_dir) == {pid}
            await visitor.leave()

    run_async(scenario())


def test_a_stranger_at_the_remote_api_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path / "n1") as home:
            forger = Authority().worker()
            bus = ZmqBus(forger, clock=SystemClock())
            host, port = parse_address(home.remote_addr)
            certificate = home._facts.managers[0].certificate
            with pytest.raises(SwarmError):
                await bus.dial(RemoteAddress(host=host, port=port, certificate=certificate))
            await bus.close()

    run_async(scenario())


def test_a_taken_remote_api_port_ends_the_gateway_with_one_clear_message(tmp_path: Path) -> None:
    async def scenario() -> None:
        home = GatewayHome(tmp_path / "n1")
        await home.open()
        host, port = parse_address(home.remote_addr)
        server = await asyncio.start_server(lambda reader, writer: None, host, port)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "services.gateway",
            cwd=home.run_dir, env=home.environment, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        server.close()
        await home.close()
        assert process.returncode not in {0, -signal.SIGKILL}
        assert f"cannot listen on {home.remote_addr}" in errors.decode()
        assert "Traceback" not in errors.decode()
        for pid in plane_pids(home.run_dir):
            await gone(pid)

    run_async(scenario())


def _children(home: GatewayHome) -> list[int]:
    assert home.process is not None
    pid = home.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _doors(home: GatewayHome) -> list[Path]:
    paths = [home.run_dir / "gateway.sock", home.run_dir / "plane.sock", Path(home.control_socket)]
    return [path for path in paths if path.exists()]
