"""The oci driver with real containers: what a task sees, its limits, volumes that come back, what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.agent.core.bundle import NodeFacts, TaskBundle, make_bundle
from services.agent.drivers.api import DriverContext, Failed, Rejected, SupportsStats, Unsupported
from services.agent.drivers.oci import OciController, OciDriver
from services.agent.shell.inside import run_command
from services.agent.taskd import stop_all
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import ConfigId, NodeId, SecretId
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    Mount,
    Platform,
    Privileges,
    ResourceRequirements,
    Resources,
    SecretReference,
    SecretSpec,
    TaskSpec,
    Ulimit,
)
from services.kit.model.states import MountType
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from tests.support.agents import CLUSTER, make_spec, make_task
from tests.support.rootfs import make_rootfs, missing
from tests.support.running import run_async

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(missing()), reason=missing() or "all is there")]


class Shop:
    """A node with the driver, and its tasks."""

    def __init__(self, driver: OciDriver, image: Path) -> None:
        self.driver = driver
        self.image = image
        self._count = 0

    async def task(
        self,
        script: str,
        container: ContainerSpec = ContainerSpec(),
        *,
        limits: Resources = Resources(),
        options: dict[str, str] | None = None,
        secrets: tuple[Secret, ...] = (),
        configs: tuple[Config, ...] = (),
    ) -> OciController:
        """Return the controller of a task that runs a shell script."""
        self._count += 1
        fields = {name: getattr(container, name) for name in ContainerSpec.__struct_fields__}
        filled = ContainerSpec(
            **{**fields, "image": container.image or str(self.image), "command": ("/bin/sh", "-c", script)}
        )
        spec = TaskSpec(
            driver="oci",
            container=filled,
            resources=ResourceRequirements(limits=limits),
            driver_options=options or {},
        )
        bundle: TaskBundle = make_bundle(
            make_task(self._count),
            make_spec(task=spec),
            NodeFacts(id=NodeId("n"), hostname="node", platform=Platform()),
            secrets=secrets,
            configs=configs,
        )
        controller = await self.driver.controller(bundle)
        assert isinstance(controller, OciController)
        return controller

    async def output(self, controller: OciController) -> list[str]:
        """Run a task to its end and return what it wrote."""
        await controller.prepare()
        await controller.start()
        end = await controller.wait()
        lines = [line.data.decode() async for batch in controller.logs(LogOptions()) for line in batch]
        assert end.ok, (end, lines)
        await controller.remove()
        return lines


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("oci") / "image")


@asynccontextmanager
async def shop_in(state_dir: Path, image: Path) -> AsyncIterator[Shop]:
    """Load the driver; afterwards nothing is left."""
    run_dir = state_dir / "run"
    run_dir.mkdir(exist_ok=True, mode=0o700)
    async with TaskOwner("oci test") as owner:
        driver = OciDriver()
        await driver.load(
            DriverContext(
                node_id=NodeId("n"),
                cluster_id=CLUSTER,
                hostname="node",
                addr="127.0.0.1",
                state_dir=state_dir,
                run_dir=run_dir,
                clock=SystemClock(),
                log=Log("test"),
                tasks=owner,
            )
        )
        try:
            yield Shop(driver, image)
        finally:
            async for found in driver.recover():
                await driver.discard(found)
            await driver.unload()
            assert stop_all.main(["", str(state_dir / "worker"), str(run_dir / "taskd.sock"), "0"]) == 0
    assert str(state_dir) not in Path("/proc/self/mounts").read_text()


def test_a_container_sees_what_its_spec_says(tmp_path: Path, image: Path) -> None:
    async def scenario() -> None:
        async with shop_in(tmp_path, image) as shop:
            (tmp_path / "given").write_text("from the node\n")
            secret = Secret(id=SecretId("s"), spec=SecretSpec(annotations=Annotations(name="s"), data=b"hush\n"))
            config = Config(id=ConfigId("c"), spec=ConfigSpec(annotations=Annotations(name="c"), data=b"loud\n"))
            container = ContainerSpec(
                env=("SLOT={{.Task.Slot}}",),
                dir="/tmp",
                user="worker",
                groups=("video",),
                hostname="named-{{.Task.Slot}}",
                privileges=Privileges(no_new_privileges=True),
                ulimits=(Ulimit(name="nofile", soft=77, hard=88),),
                capability_drop=("ALL",),
                devices=("/dev/null:/dev/nothing:r",),
                sysctls={"kernel.shm_rmid_forced": "1"},
                mounts=(
                    Mount(type=MountType.BIND, source=str(tmp_path / "given"), target="/given", read_only=True),
                    Mount(type=MountType.TMPFS, target="/scratch", tmpfs_size_bytes=1 << 20),
                ),
                secrets=(
                    SecretReference(
                        secret_id=secret.id, secret_name="s", target=FileTarget(name="key", uid="1000", mode=0o400)
                    ),
                ),
                configs=(
                    ConfigReference(config_id=config.id, config_name="c", target=FileTarget(name="/etc/app.conf")),
                ),
            )
            script = (
                "echo $SLOT; pwd; id -u; id -G; hostname; cat /given; cat /run/secrets/key; cat /etc/app.conf; ulimit -n; "
                "ls /dev/nothing; cat /proc/sys/kernel/shm_rmid_forced; echo $$; grep CapEff /proc/self/status; cat /proc/mounts"
            )
            controller = await shop.task(script, container, secrets=(secret,), configs=(config,))
            (
                slot,
                place,
                uid,
                groups,
                host,
                given,
                hush,
                loud,
                files,
                device,
                sysctl,
                pid,
                caps,
                *mounts,
            ) = await shop.output(controller)
            assert (slot, place, uid, groups, host) == ("1", "/tmp", "1000", "1001 44", "named-1")
            assert (given, hush, loud) == ("from the node", "hush", "loud")
            assert (files, device, sysctl, pid) == ("77", "/dev/nothing", "1", "1")
            assert int(caps.split()[1], 16) == 0
            points = {line.split()[1]: line.split() for line in mounts}
            assert points["/given"][3].startswith("ro")
            assert points["/scratch"][0] == "tmpfs"

    run_async(scenario())


def test_what_a_task_writes_is_its_own_and_goes_with_it(tmp_path: Path, image: Path) -> None:
    async def scenario() -> None:
        async with shop_in(tmp_path, image) as shop:
            await shop.output(await shop.task("echo mine > /data/file; rm /bin/tar"))
            assert (image / "bin" / "tar").is_symlink()
            assert await shop.output(await shop.task("test -e /data/file || echo gone")) == ["gone"]
            read_only = await shop.task("echo x > /data/file || echo refused", ContainerSpec(read_only=True))
            assert "refused" in await shop.output(read_only)

    run_async(scenario())


def test_a_named_volume_comes_back_and_an_anonymous_one_goes(tmp_path: Path, image: Path) -> None:
    async def scenario() -> None:
        async with shop_in(tmp_path, image) as shop:
            named = ContainerSpec(
                mounts=(Mount(type=MountType.VOLUME, source="data-{{.Service.Name}}", target="/data"),)
            )
            await shop.output(await shop.task("echo kept > /data/file", named))
            assert await shop.output(await shop.task("cat /data/file", named)) == ["kept"]
            assert (tmp_path / "worker/volumes/data-web/file").read_text() == "kept\n"
            anonymous = ContainerSpec(mounts=(Mount(type=MountType.VOLUME, target="/data"),))
            await shop.output(await shop.task("echo lost > /data/file", anonymous))
            assert not [path for path in tmp_path.rglob("file") if "volumes/data-web" not in str(path)]

    run_async(scenario())


def test_limits_hold_and_a_death_for_memory_is_told(tmp_path: Path, image: Path) -> None:
    async def scenario() -> None:
        async with shop_in(tmp_path, image) as shop:
            hungry = await shop.task(
                "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", limits=Resources(memory_bytes=16 << 20)
            )
            await hungry.prepare()
            await hungry.start()
            end = await hungry.wait()
            assert (end.oom, end.status) == (True, 137)
            few = await shop.task("sleep 1000000", ContainerSpec(pids_limit=3), limits=Resources(nano_cpus=500_000_000))
            await few.prepare()
            await few.start()
            crowd = await run_command(few, ("/bin/sh", "-c", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo all"), 10)
            assert b"all" not in crowd.output
            assert isinstance(few, SupportsStats)
            measured = await few.stats()
            assert measured.memory_bytes > 0
            assert measured.pids >= 1

    run_async(scenario())


def test_what_cannot_be_is_refused_with_the_reason(tmp_path: Path, image: Path) -> None:
    async def scenario() -> None:
        async with shop_in(tmp_path, image) as shop:
            for container, error, words in (
                (ContainerSpec(tty=True), Unsupported, "container.tty"),
                (ContainerSpec(devices=("acme.com/gpu=0",)), Unsupported, "container.devices"),
                (ContainerSpec(mounts=(Mount(type=MountType.NPIPE, target="/x"),)), Unsupported, "mounts.0.type"),
                (ContainerSpec(image="nginx"), Rejected, "no directory of this node"),
                (ContainerSpec(user="nobody-here"), Rejected, "knows no user"),
                (ContainerSpec(devices=("/dev/no-such-device",)), Rejected, "no-such-device"),
                (
                    ContainerSpec(mounts=(Mount(type=MountType.VOLUME, source="../x", target="/x"),)),
                    Rejected,
                    "no name",
                ),
            ):
                controller = await shop.task("true", container)
                with pytest.raises(error, match=words):
                    await controller.prepare()
                await controller.remove()
            missing_bind = await shop.task("true", ContainerSpec(mounts=(Mount(source="/no/such/place", target="/x"),)))
            await missing_bind.prepare()
            with pytest.raises(Failed, match="no such file"):
                await missing_bind.start()

    run_async(scenario())


def test_an_empty_network_has_nobody_in_it(tmp_path: Path, image: Path) -> None:
    async def scenario() -> None:
        async with shop_in(tmp_path, image) as shop:
            alone = await shop.task("tail -n +3 /proc/net/dev | cut -d: -f1", options={"network": "none"})
            assert [name.strip() for name in await shop.output(alone)] == ["lo"]

    run_async(scenario())
