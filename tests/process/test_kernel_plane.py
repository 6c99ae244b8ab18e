"""The kernel carries a port's connections to the node's own tasks: in namespaces of the test, with a client on another machine."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from services.gateway.core.kernel_rules import table_name
from services.kit.messages.routes import Backend
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.specs import IngressConfig
from services.kit.model.states import BalanceAlgorithm, DataPlane
from tests.support import netns
from tests.support.netns import Cables
from tests.support.own_network import in_network
from tests.support.plane_home import NODE, Plane, gone, plane, route
from tests.support.running import eventually, run_async

pytestmark = pytest.mark.process

PORT = 8080
NFT = IngressConfig(plane=DataPlane.NFT)
PROBE = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as sock:
    print(sock.makefile().readline().strip())
"""


@pytest.fixture
def machines() -> Iterator[Cables]:
    why_not = netns.is_possible() or ("" if shutil.which("nft") else "needs nft")
    if why_not:
        pytest.skip(why_not)
    with Cables(2) as cables:
        yield cables


class Greeter:
    """A task that tells each client its own name and where the client seems to come from."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self._address = address
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._greet, self._address, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Die."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def backend(self, *, draining: bool = False, node: str = NODE) -> Backend:
        """Return it as the route table names it."""
        return Backend(
            task_id=TaskId(self.name), node_id=NodeId(node), addr=self._address, port=self.port, draining=draining
        )

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{self.name} {writer.get_extra_info('peername')[0]}\n".encode())
        await writer.drain()
        await reader.read()
        writer.close()


class Node:
    """What runs on the first machine, and how the second one asks it."""

    def __init__(self, cables: Cables, running: Plane, one: Greeter, two: Greeter) -> None:
        self.running = running
        self.one, self.two = one, two
        self.address = cables.address(0)
        self.client_address = cables.address(1)
        self._wrapper = cables.wrapper(1)

    async def ask(self) -> tuple[str, str]:
        """Ask from the other machine; return who answered, and whom it saw."""
        process = await asyncio.create_subprocess_exec(
            *self._wrapper, "python3", "-c", PROBE, self.address, str(PORT), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        name, _, address = said.decode().strip().partition(" ")
        return name, address

    async def accepted(self) -> int:
        """Return how many connections came through the gateway's own processes."""
        return (await self.running.keeper.counts())[0].worker["accepted"]

    def rules(self) -> str:
        """Return what the kernel has."""
        listing = subprocess.run(
            ["nft", "list", "table", "inet", table_name(NODE)], capture_output=True, text=True, check=False
        )
        return listing.stdout

    def meddle(self, *words: str) -> None:
        """Do something to the kernel's rules."""
        subprocess.run(["nft", *words], check=True)


def on(machines: Cables, directory: Path, scenario: Callable[[Node], Awaitable[None]]) -> None:
    """Run a scenario on the first machine."""

    async def play() -> None:
        address = machines.address(0)
        one, two = Greeter("one", address), Greeter("two", address)
        await one.open()
        await two.open()
        try:
            async with plane(directory, host="0.0.0.0") as running:
                (pid,) = running.pids
                await scenario(Node(machines, running, one, two))
            await eventually(lambda: not Path(f"/proc/{pid}").exists())
            assert Node(machines, running, one, two).rules() == "", "nothing is left in the kernel"
        finally:
            await one.close()
            await two.close()

    in_network(machines.wrapper(0)[3], lambda: run_async(play(), timeout_s=50))


def test_the_kernel_spreads_connections_over_the_nodes_tasks_and_keeps_the_clients_address(
    machines: Cables, tmp_path: Path
) -> None:
    async def scenario(node: Node) -> None:
        turns = IngressConfig(plane=DataPlane.NFT, algorithm=BalanceAlgorithm.ROUND_ROBIN)
        await node.running.show(route(PORT, node.one.backend(), node.two.backend(), ingress=turns))
        answers = [await node.ask() for _ in range(6)]
        assert Counter(name for name, _ in answers) == {"one": 3, "two": 3}
        assert {address for _, address in answers} == {node.client_address}
        assert await node.accepted() == 0
        assert node.running.keeper.kernel.ports == (f"{PORT}/tcp",)

    on(machines, tmp_path, scenario)


def test_a_draining_task_gets_no_new_connection_once_the_table_is_confirmed(machines: Cables, tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        await node.running.show(route(PORT, node.one.backend(), node.two.backend(), ingress=NFT))
        await node.running.show(route(PORT, node.one.backend(draining=True), node.two.backend(), ingress=NFT))
        assert node.running.confirmations[-1] == (2, {"one": 1}), "it may have connections that nobody counts"
        assert {(await node.ask())[0] for _ in range(5)} == {"two"}
        assert await node.accepted() == 0

    on(machines, tmp_path, scenario)


def test_where_the_node_has_no_task_the_gateway_carries_the_port(machines: Cables, tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        await node.running.show(route(PORT, node.one.backend(node="elsewhere"), ingress=NFT))
        assert await node.ask() == ("one", node.address)
        assert await node.accepted() == 1
        await node.running.show(route(PORT, node.two.backend(), ingress=NFT))
        assert await node.ask() == ("two", node.client_address)
        await node.running.show(route(PORT, node.two.backend(), ingress=IngressConfig()))
        assert await node.ask() == ("two", node.address)
        assert node.rules() == ""

    on(machines, tmp_path, scenario)


@pytest.mark.parametrize("damage", ["flush table", "delete table", "add rule"])
def test_what_somebody_else_did_to_the_rules_is_put_right(machines: Cables, tmp_path: Path, damage: str) -> None:
    async def scenario(node: Node) -> None:
        node.running.keeper.kernel._look_again_s = 0.1
        await node.running.show(route(PORT, node.one.backend(), ingress=NFT))
        whole = node.rules()
        rule = ["prerouting", "tcp", "dport", str(PORT), "drop"] if damage == "add rule" else []
        await node.running.show(route(PORT, node.one.backend(), ingress=NFT))
        node.meddle(*damage.split(), "inet", table_name(NODE), *rule)
        await eventually(lambda: node.rules() == whole)
        assert await node.ask() == ("one", node.client_address)

    on(machines, tmp_path, scenario)


def test_a_gateways_crash_leaves_the_rules_and_its_successor_takes_them_over(machines: Cables, tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        (tmp_path / "other").mkdir()
        crashed = Plane(tmp_path / "other", host=node.address)
        await crashed.keeper.start()
        await crashed.show(route(PORT, node.one.backend(), ingress=NFT))
        pid = crashed.pids[0]
        await crashed.keeper.detach()
        assert await node.ask() == ("one", node.client_address)
        async with plane(tmp_path / "other", host=node.address) as successor:
            assert await node.ask() == ("one", node.client_address)
            await successor.show(route(PORT, node.two.backend(), ingress=IngressConfig()))
            assert node.rules() == "", "it was told that nothing is asked of the kernel any more"
            assert await node.ask() == ("two", node.address)
        await gone(pid)

    on(machines, tmp_path, scenario)


def test_without_nft_the_gateway_carries_the_port_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.shell.kernel_plane._PLACES", "")
    monkeypatch.setenv("PATH", "/nowhere")

    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        task = Greeter("one", "127.0.0.1")
        await task.open()
        async with plane(tmp_path) as running:
            await running.show(route(port, task.backend(), ingress=NFT))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert (await reader.readline()).startswith(b"one ")
            writer.close()
            kernel = running.keeper.kernel
            assert kernel.failure in {"the nft program is not installed", "needs root"}
            assert kernel.ports == ()
        await task.close()

    run_async(scenario())
