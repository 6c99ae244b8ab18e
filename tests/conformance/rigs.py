"""What the conformance suite needs to know of a driver: how to load it, and how to write each of its programs for it.

To run the suite on a driver of your own, write a ``Rig`` and add it to ``RIGS``.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.agent.core.bundle import NodeFacts, TaskBundle, make_bundle
from services.agent.drivers.api import Driver, DriverContext
from services.agent.drivers.docker_driver import DockerDriver
from services.agent.drivers.fake import FakeDriver
from services.agent.drivers.oci import OciDriver
from services.agent.drivers.process import ProcessDriver
from services.kit.model.ids import NodeId
from services.kit.model.objects import SpecVersion
from services.kit.model.specs import ContainerSpec, EndpointSpec, Platform, PortConfig, TaskSpec
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SeededIds
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from tests.support.agents import CLUSTER, make_spec, make_task
from tests.support.docker_engine import IMAGE
from tests.support.rootfs import make_rootfs

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a task of the suite does."""

    lines: int = 0
    """Write so many lines, numbered from 0, then …"""
    exit_code: int | None = None
    """… end with this code; None: run on until stopped."""
    stubborn: bool = False
    """Ignore the stop signal."""


class Rig(Protocol):
    """One driver under test."""

    name: str
    parallel: int
    """Tasks that run side by side in the suite."""
    stopped_status: int
    """Exit status of a task that obeys the stop signal."""

    def make(self) -> Driver:
        """Return a new driver, not loaded."""

    def spec(self, program: Program, endpoint: EndpointSpec) -> SpecVersion:
        """Return the template of a task that does this."""

    async def end(self, driver: Driver) -> None:
        """Clean up what ``unload`` rightly leaves, when the last task is removed."""


class FakeRig:
    """The fake driver."""

    name = "fake"
    parallel = 50
    stopped_status = 128 + 15

    def make(self) -> Driver:
        """Return a new driver."""
        return FakeDriver()

    def spec(self, program: Program, endpoint: EndpointSpec) -> SpecVersion:
        """Write the program as options."""
        options = {"log_lines": str(program.lines), "log_line": "line {n}"}
        if program.exit_code is not None:
            options |= {"run_for": "0.05", "exit_code": str(program.exit_code)}
        if program.stubborn:
            options["hang_on_stop"] = "true"
        return make_spec(endpoint=endpoint, task=TaskSpec(driver="fake", driver_options=options))

    async def end(self, driver: Driver) -> None:
        """Nothing is left."""


class _ShellRig:
    """A driver whose tasks are commands."""

    name = ""
    parallel = 50
    stopped_status = 7
    image = ""

    def spec(self, program: Program, endpoint: EndpointSpec) -> SpecVersion:
        """Write the program as a shell script."""
        script = "trap '' TERM; " if program.stubborn else "trap 'exit 7' TERM; "
        if program.lines:
            script += f"i=0; while [ $i -lt {program.lines} ]; do echo line $i; i=$((i+1)); done; "
        if program.exit_code is not None:
            script += f"exit {program.exit_code}"
        elif program.stubborn:
            script += "while :; do sleep 1000000; done"
        else:
            script += "sleep 1000000 & wait"
        container = ContainerSpec(image=self.image, command=("/bin/sh", "-c", script))
        return make_spec(self.name, container=container, endpoint=endpoint)

    async def end(self, driver: Driver) -> None:
        """Nothing is left."""


class ProcessRig(_ShellRig):
    """The process driver."""

    name = "process"

    def make(self) -> Driver:
        """Return a new driver."""
        return ProcessDriver()


class DockerRig(_ShellRig):
    """The docker driver."""

    name = "docker"
    image = IMAGE

    def make(self) -> Driver:
        """Return a new driver."""
        return DockerDriver()


class OciRig(_ShellRig):
    """The oci driver."""

    name = "oci"
    parallel = 20

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="swarmbus-rootfs-"))
        self.image = str(self._directory / "image")

    def make(self) -> Driver:
        """Return a new driver."""
        if not Path(self.image).exists():
            make_rootfs(Path(self.image))
        return OciDriver()

    async def end(self, driver: Driver) -> None:
        """Remove the image."""
        shutil.rmtree(self._directory)


RIGS: tuple[type[Rig], ...] = (FakeRig, ProcessRig, OciRig, DockerRig)


class Bench:
    """A node on which a driver is tested: it can lose its agent and get a new one."""

    def __init__(self, rig: Rig, state_dir: Path, docker_socket: str) -> None:
        self.rig = rig
        self.node_id = NodeId(SeededIds(random.SystemRandom().getrandbits(64)).new("node"))
        self._state_dir = state_dir
        self._docker_socket = docker_socket
        self._count = 0

    @asynccontextmanager
    async def driver(self, *, crash: bool = False) -> AsyncIterator[Driver]:
        """Load a driver; at the end it is unloaded, or just dropped as a crash of the agent does."""
        run_dir = self._state_dir / "run"
        run_dir.mkdir(exist_ok=True, mode=0o700)
        async with TaskOwner("conformance") as owner:
            context = DriverContext(
                node_id=self.node_id,
                cluster_id=CLUSTER,
                hostname="conformance",
                addr=HOST,
                state_dir=self._state_dir,
                run_dir=run_dir,
                docker_socket=self._docker_socket,
                clock=SystemClock(),
                log=Log("conformance"),
                tasks=owner,
            )
            driver = self.rig.make()
            await driver.load(context)
            async with aclosing(driver.fingerprint()) as fingerprints:
                first = await anext(fingerprints)
            assert first.healthy, first.reason
            try:
                yield driver
            finally:
                if not crash:
                    await driver.unload()

    def bundle(self, program: Program, *, ports: tuple[PortConfig, ...] = ()) -> TaskBundle:
        """Return the next task, which does this."""
        self._count += 1
        spec = self.rig.spec(program, EndpointSpec(ports=ports))
        node = NodeFacts(id=self.node_id, hostname="conformance", platform=Platform(os="linux"))
        task = make_task(self._count)
        return make_bundle(task, spec, node)

    async def clean(self) -> None:
        """Remove every task that a test left."""
        async with self.driver() as driver:
            async for found in driver.recover():
                await driver.discard(found)
            await self.rig.end(driver)
