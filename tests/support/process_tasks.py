"""The process driver in a test's own state directory: bundles for it, and the check that nothing of its tasks is left."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from services.agent.core.bundle import NodeFacts, TaskBundle, make_bundle
from services.agent.drivers.api import Controller, DriverContext, Line, SupportsLogs
from services.agent.drivers.process import ProcessDriver
from services.agent.drivers.task_files import FileStore
from services.agent.taskd import stop_all
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import ClusterId, NodeId, ServiceId, SpecVersionId, TaskId
from services.kit.model.objects import Config, Secret, SpecVersion, Task
from services.kit.model.specs import Annotations, ContainerSpec, EndpointSpec, Platform, PortConfig, TaskSpec
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.files import make_directory
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from tests.support.running import eventually, run_async
from tests.support.taskd_home import Home, groups_of

NODE = NodeFacts(id=NodeId("node1"), hostname="host1", platform=Platform(architecture="x86_64", os="linux"))


class Workshop:
    """A node's state directory with a loaded process driver."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.home = Home(state_dir / "worker")
        self._owner = TaskOwner("agent")
        self.driver = ProcessDriver()

    async def load(self) -> None:
        """Load a new driver, as a started agent does."""
        self._owner = TaskOwner("agent")
        self.driver = ProcessDriver()
        await self.driver.load(
            DriverContext(
                node_id=NODE.id,
                cluster_id=ClusterId("cluster1"),
                hostname=NODE.hostname,
                addr="127.0.0.1",
                state_dir=self.state_dir,
                run_dir=self.state_dir / "run",
                clock=SystemClock(),
                log=Log("test"),
                tasks=self._owner,
            )
        )

    async def unload(self, *, politely: bool = True) -> None:
        """Leave as an agent does that ends, or as one that is killed."""
        if politely:
            await self.driver.unload()
        await self._owner.close()

    async def controller(self, bundle: TaskBundle) -> Controller:
        """Return a task's controller."""
        return await self.driver.controller(bundle)

    async def running(self, bundle: TaskBundle) -> Controller:
        """Return the controller of a task that was prepared and started."""
        controller = await self.controller(bundle)
        await controller.prepare()
        await controller.start()
        return controller


def bundle_of(
    task_id: str,
    container: ContainerSpec,
    *,
    ports: tuple[PortConfig, ...] = (),
    spec: TaskSpec = TaskSpec(),
    secrets: tuple[Secret, ...] = (),
    configs: tuple[Config, ...] = (),
) -> TaskBundle:
    """Return a task's bundle; ``container`` takes the place of the spec's."""
    fields = {name: getattr(spec, name) for name in TaskSpec.__struct_fields__}
    task_spec = TaskSpec(**{**fields, "driver": "process", "container": container})
    service = ServiceId("service1")
    version = SpecVersion(
        id=SpecVersionId("service1.1"),
        service_id=service,
        version=1,
        annotations=Annotations(name="web"),
        task=task_spec,
        endpoint=EndpointSpec(ports=ports),
    )
    task = Task(id=TaskId(task_id), service_id=service, spec_version=1, slot=1)
    return make_bundle(task, version, NODE, secrets=secrets, configs=configs)


def shell(script: str) -> ContainerSpec:
    """Return a container spec that runs a shell script."""
    return ContainerSpec(command=("sh", "-c", script))


async def lines_of(controller: Controller, options: LogOptions = LogOptions()) -> list[Line]:
    """Return a task's log."""
    assert isinstance(controller, SupportsLogs)
    return [line async for batch in controller.logs(options) for line in batch]


async def text_of(controller: Controller, options: LogOptions = LogOptions()) -> list[str]:
    """Return a task's log as texts."""
    return [line.data.decode() for line in await lines_of(controller, options)]


@asynccontextmanager
async def workshop() -> AsyncIterator[Workshop]:
    """Give a loaded driver; afterwards all is stopped, and it is checked that nothing is left."""
    with tempfile.TemporaryDirectory(prefix="process-") as name:
        state_dir = Path(name)
        make_directory(state_dir / "run")
        shop = Workshop(state_dir)
        files = FileStore.of(state_dir)
        await shop.load()
        try:
            yield shop
        finally:
            await shop.unload(politely=False)
            arguments = ["stop_all", str(state_dir / "worker"), str(state_dir / "run" / "taskd.sock"), "0"]
            assert stop_all.main(arguments) == 0
            await eventually(lambda: not shop.home.processes())
        assert not groups_of(state_dir / "worker")
        assert not files.base.exists(), "files of tasks are left"


def run(work: Callable[[Workshop], Coroutine[None, None, None]]) -> None:
    """Run an async test with a driver of its own."""

    async def within() -> None:
        async with workshop() as shop:
            await work(shop)

    run_async(within(), timeout_s=50.0)
