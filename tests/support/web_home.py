"""The web process's app in a test: its doors over a scripted control server, on a thread of its own, for real HTTP clients."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from services.client.blocking import LoopThread
from services.kit.bus.zmq import ZmqBus
from services.kit.lifecycle.app import Runtime
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.ids import ClusterId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SeededIds
from services.web.config import WebSettings
from services.web.shell.app import WebApp
from tests.support.control_server import ControlServer


class FixedNode:
    """A child's line to a supervisor that has said everything."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.later: tuple[Facts, ...] = ()

    async def changes(self) -> AsyncIterator[Facts]:
        """Nothing ever changes."""
        for facts in self.later:
            yield facts

    async def report_lock(self, unlock_key: bytes) -> None:
        """Nobody listens."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Nobody listens."""

    async def report_node(self, report: NodeReport) -> None:
        """Nobody listens."""

    async def report_ready(self) -> None:
        """Nobody listens."""


class WebHome:
    """One app with its doors."""

    def __init__(self, directory: Path, *addresses: str, **settings: str) -> None:
        self.directory = directory
        self.docker_socket = str(directory / "docker.sock")
        self.server = ControlServer()
        self._thread = LoopThread()
        self._settings = WebSettings(
            state_dir=directory,
            listen_control_api=str(directory / "control.sock"),
            listen_http=",".join(addresses or (f"unix://{self.docker_socket}",)),
            **settings,  # type: ignore[arg-type]
        )
        self._buses: list[ZmqBus] = []
        self._app: WebApp | None = None
        try:
            self._thread.run(self._open())
        except BaseException:
            self.close()
            raise

    async def _open(self) -> None:
        serving = ZmqBus(clock=SystemClock(), process="gateway")
        asking = ZmqBus(clock=SystemClock(), process="web")
        self._buses = [serving, asking]
        await self.server.listen(serving, self._settings.control_socket)
        facts = Facts(
            node_id=self.server.node, cluster_id=ClusterId("c"), role=Role.MANAGER, certificates_dir="", remote_addr=""
        )
        runtime = Runtime(
            process="web",
            clock=SystemClock(),
            ids=SeededIds(3),
            rng=random.Random(3),
            bus=asking,
            node=FixedNode(facts),
        )
        self._app = WebApp(self._settings, runtime)
        await self._app.start()

    def call(self, act: Callable[[ControlServer], object]) -> None:
        """Change the control server's state on its own thread."""

        async def run() -> None:
            act(self.server)

        self._thread.run(run())

    def docker(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run the docker command against the first door."""
        program = shutil.which("docker")
        assert program is not None, "see the test's skip"
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory)}
        command = [program, "-H", f"unix://{self.docker_socket}", *words]
        return subprocess.run(
            command, input=text, env=environment, capture_output=True, text=True, timeout=50, check=False
        )

    def close(self) -> None:
        """Close the doors and everything behind them."""
        self._thread.run(self._close())
        self._thread.close()

    async def _close(self) -> None:
        if self._app is not None:
            await self._app.stop()
        for bus in self._buses:
            await bus.close()
