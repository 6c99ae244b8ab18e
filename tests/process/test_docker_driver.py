"""The docker driver against a real engine that the test starts: what a container sees, what the engine refuses, engine crashes."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from services.agent.core.bundle import NodeFacts, TaskBundle, make_bundle
from services.agent.core.credentials import Credentials, registry_of
from services.agent.drivers.api import Command, Controller, DriverContext, Failed, Rejected, Unsupported
from services.agent.drivers.docker_driver import DockerController, DockerDriver
from services.agent.shell.app import AgentApp
from services.agent.shell.health import Health
from services.agent.shell.inside import run_command
from services.kit.messages.logs import LogOptions
from services.kit.messages.session import RegistryAuth
from services.kit.model.ids import ConfigId, NetworkId, NodeId, SecretId
from services.kit.model.objects import Config, Network, NetworkAddresses, Secret
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    FileTarget,
    HealthCheck,
    IpamConfig,
    Mount,
    NetworkAttachmentConfig,
    NetworkSpec,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    SecretReference,
    SecretSpec,
    TaskSpec,
)
from services.kit.model.states import LogStream, MountType, TaskState
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from tests.support.agents import CLUSTER, ScriptedDispatcher, described, make_spec, make_task, one_agent, task_id
from tests.support.docker_engine import IMAGE, DockerEngine, docker_engine, missing
from tests.support.registry import credentials, one_registry
from tests.support.running import eventually, run_async

pytestmark = [pytest.mark.docker, pytest.mark.process]

OFFLINE = {"network": "none"}


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    reason = missing()
    if reason:
        pytest.skip(f"no Docker engine: {reason}")
    with docker_engine() as running:
        yield running


class Node:
    """A driver on a node of its own, and its tasks."""

    def __init__(self, driver: DockerDriver, node_id: NodeId, credentials: Credentials) -> None:
        self.driver = driver
        self.node_id = node_id
        self.credentials = credentials
        self._count = 0

    async def task(
        self,
        script: str,
        container: ContainerSpec = ContainerSpec(),
        *,
        options: dict[str, str] | None = None,
        limits: Resources = Resources(),
        ports: tuple[PortConfig, ...] = (),
        secrets: tuple[Secret, ...] = (),
        configs: tuple[Config, ...] = (),
        networks: tuple[Network, ...] = (),
        addresses: tuple[str, ...] = (),
    ) -> DockerController:
        """Return the controller of a task that runs a shell script."""
        self._count += 1
        filled = msgspec.structs.replace(
            container, image=container.image or IMAGE, command=container.command or ("/bin/sh", "-c", script)
        )
        task = TaskSpec(
            driver="docker",
            driver_options={} if networks else OFFLINE if options is None else options,
            networks=tuple(NetworkAttachmentConfig(target=each.id, aliases=("other",)) for each in networks),
            container=filled,
            resources=ResourceRequirements(limits=limits),
        )
        dealt = tuple(
            NetworkAddresses(network_id=network.id, addresses=(address,))
            for network, address in zip(networks, addresses, strict=True)
        )
        bundle: TaskBundle = make_bundle(
            msgspec.structs.replace(make_task(self._count), networks=dealt),
            make_spec(task=task, endpoint=EndpointSpec(ports=ports), name=f"s{self.node_id[:6]}"),
            NodeFacts(id=self.node_id, hostname="node", platform=Platform()),
            secrets=secrets,
            configs=configs,
            networks=networks,
        )
        return await self.driver.controller(bundle)

    async def output(self, controller: DockerController) -> list[str]:
        """Run a task to its end and return what it wrote."""
        await controller.prepare()
        await controller.start()
        end = await controller.wait()
        lines = await lines_of(controller)
        assert end.ok, (end, lines)
        return lines


async def lines_of(controller: DockerController) -> list[str]:
    return [line.data.decode() async for batch in controller.logs(LogOptions()) for line in batch]


@asynccontextmanager
async def node_on(engine: DockerEngine, state_dir: Path) -> AsyncGenerator[Node]:
    async with TaskOwner("docker test") as owner:
        node_id = NodeId(SystemIds().new("node"))
        driver = DockerDriver()
        swarms = Credentials()
        await driver.load(
            DriverContext(
                node_id=node_id,
                cluster_id=CLUSTER,
                hostname="node",
                addr="127.0.0.1",
                state_dir=state_dir,
                run_dir=state_dir,
                docker_socket=engine.socket,
                credentials=swarms,
                clock=SystemClock(),
                log=Log("test"),
                tasks=owner,
            )
        )
        async with aclosing(driver.fingerprint()) as fingerprints:
            first = await anext(fingerprints)
        assert first.healthy, first.reason
        try:
            yield Node(driver, node_id, swarms)
        finally:
            async for found in driver.recover():
                await driver.discard(found)
            await driver.unload()


async def begin(controller: Controller) -> None:
    await controller.prepare()
    await controller.start()


def test_a_container_sees_what_its_spec_says(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            (tmp_path / "given").write_text("from the node")
            container = ContainerSpec(
                env=("SLOT={{.Task.Slot}}",),
                dir="/tmp",
                user="worker",
                hostname="named-{{.Task.Slot}}",
                mounts=(
                    Mount(type=MountType.BIND, source=str(tmp_path / "given"), target="/given", read_only=True),
                    Mount(type=MountType.VOLUME, source="vol-{{.Task.ID}}", target="/data"),
                    Mount(type=MountType.TMPFS, target="/scratch", tmpfs_size_bytes=1 << 20),
                ),
            )
            script = "echo $SLOT; pwd; id -u; hostname; cat /given; echo; cat /proc/mounts"
            controller = await node.task(script, container)
            slot, directory, user, hostname, given, *mounts = await node.output(controller)
            assert (slot, directory, user, hostname, given) == ("1", "/tmp", "1000", "named-1", "from the node")
            points = {line.split()[1]: line.split() for line in mounts}
            assert points["/scratch"][0] == "tmpfs"
            assert "/data" in points
            assert points["/given"][3].startswith("ro")
            await controller.remove()
            engine.cli("volume", "rm", "--force", f"vol-{task_id(1)}")

    run_async(scenario())


def test_secrets_and_configs_are_files_that_go_with_the_task(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            container = ContainerSpec(
                secrets=(SecretReference(secret_id=SecretId("s"), secret_name="s", target=FileTarget(name="key")),),
                configs=(
                    ConfigReference(config_id=ConfigId("c"), config_name="c", target=FileTarget(name="app.conf")),
                ),
            )
            secret = Secret(id=SecretId("s"), spec=SecretSpec(annotations=Annotations(name="s"), data=b"hush"))
            config = Config(id=ConfigId("c"), spec=ConfigSpec(annotations=Annotations(name="c"), data=b"loud"))
            controller = await node.task(
                "cat /run/secrets/key; echo; cat /app.conf; echo", container, secrets=(secret,), configs=(config,)
            )
            assert await node.output(controller) == ["hush", "loud"]
            await controller.remove()
            assert not [path for path in tmp_path.rglob("*") if path.name in {"key", "app.conf"}]

    run_async(scenario())


def test_a_published_port_is_reached_where_the_task_says(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            controller = await node.task(
                'echo hello > /tmp/index.html; exec httpd -f -h /tmp -p "$PORT"',
                ContainerSpec(env=("PORT={{.Task.Port}}",)),
                options={},
                ports=(PortConfig(name="web", target_port=8000, published_port=80),),
            )
            await begin(controller)
            (port,) = (await controller.inspect()).ports
            assert (port.name, port.target_port) == ("web", 8000)

            def fetch() -> bytes:
                with urllib.request.urlopen(f"http://127.0.0.1:{port.port}/", timeout=2) as answer:
                    return bytes(answer.read())

            async with asyncio.timeout(10):
                while True:
                    try:
                        assert await asyncio.to_thread(fetch) == b"hello\n"
                        break
                    except OSError:
                        await asyncio.sleep(0.02)  # the server in the container is on its way

    run_async(scenario())


def a_network(name: str, subnet: str, gateway: str, driver: str = "") -> Network:
    ipam = (IpamConfig(subnet=subnet, gateway=gateway),)
    spec = NetworkSpec(annotations=Annotations(name=name), driver=DriverConfig(name=driver), ipam=ipam)
    return Network(id=NetworkId(SystemIds().new("network")), spec=spec, ipam=ipam)


def test_tasks_are_on_their_networks_with_their_addresses_and_the_last_one_takes_them_along(
    engine: DockerEngine, tmp_path: Path
) -> None:
    back = a_network("back", "10.213.7.0/24", "10.213.7.9")
    front = a_network("front", "10.213.8.0/24", "10.213.8.1")

    async def names(node: Node) -> list[str]:
        found = await node.driver._loaded()._call(lambda client: client.networks())
        return [each["Name"] for each in found if each["Name"].startswith("swarmbus-")]

    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            both = {"networks": (back, front), "addresses": ("10.213.7.20", "10.213.8.20")}
            first = await node.task("exec sleep 1000", **both)  # type: ignore[arg-type]
            await first.prepare()
            await first.start()
            assert (await first.inspect()).address in {"10.213.7.20", "10.213.8.20"}
            second = await node.task(
                "ip addr | grep -o 'inet 10[^ ]*'; ping -c 1 -W 5 10.213.7.20 >/dev/null && echo reached",
                networks=(back,),
                addresses=("10.213.7.21",),
            )
            assert await node.output(second) == ["inet 10.213.7.21/24", "reached"]
            await second.remove()
            assert len(await names(node)) == 2, "another task is on it"
            await first.remove()
            assert await names(node) == []

    run_async(scenario(), timeout_s=60)


def test_an_overlay_network_is_refused_with_its_name(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            wide = a_network("wide", "10.213.9.0/24", "10.213.9.1", "overlay")
            task = await node.task("true", networks=(wide,), addresses=("10.213.9.2",))
            with pytest.raises(Unsupported, match="wide"):
                await task.prepare()

    run_async(scenario(), timeout_s=60)


def test_stdout_and_stderr_are_told_apart(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            controller = await node.task("echo out; echo err >&2")
            await node.output(controller)
            both = [line async for batch in controller.logs(LogOptions()) for line in batch]
            assert sorted((line.stream, line.data) for line in both) == [
                (LogStream.STDERR, b"err"),
                (LogStream.STDOUT, b"out"),
            ]
            only = LogOptions(streams=(LogStream.STDERR,))
            assert [line.data async for batch in controller.logs(only) for line in batch] == [b"err"]

    run_async(scenario())


def test_a_task_that_uses_too_much_memory_says_so(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            controller = await node.task(
                "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", limits=Resources(memory_bytes=8 << 20)
            )
            await begin(controller)
            end = await controller.wait()
            assert (end.oom, end.status) == (True, 137)

    run_async(scenario())


def test_what_cannot_start_fails_with_the_engines_words(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            controller = await node.task("", ContainerSpec(command=("/no/such/command",)))
            await controller.prepare()
            with pytest.raises(Failed, match="no such file"):
                await controller.start()
            missing_image = await node.task("", ContainerSpec(image="127.0.0.1:1/nothing:here"))
            with pytest.raises(Rejected, match="cannot get image"):
                await missing_image.prepare()
            odd = await node.task("", ContainerSpec(devices=("acme.com/gpu=0",), isolation="hyperv"))
            with pytest.raises(Unsupported) as refused:
                await odd.prepare()
            assert "container.isolation" in refused.value.fields
            bad_mount = await node.task(
                "", ContainerSpec(mounts=(Mount(source=str(tmp_path / "missing"), target="/x"),))
            )
            with pytest.raises(Rejected, match="does not exist"):
                await bad_mount.prepare()

    run_async(scenario())


def test_a_foreign_container_with_the_tasks_name_is_left_alone(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            controller = await node.task("true")
            name = f"s{node.node_id[:6]}.1.{task_id(1)}"
            engine.cli("create", "--network=none", f"--name={name}", IMAGE)
            try:
                with pytest.raises(Rejected, match="is taken"):
                    await controller.prepare()
                await controller.remove()
                assert engine.cli("inspect", "--format={{.State.Status}}", name) == "created"
            finally:
                engine.cli("rm", "-f", name)

    run_async(scenario())


def test_a_check_that_comes_with_the_image_holds_back_ready_and_ends_an_unhealthy_task(
    engine: DockerEngine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        image = f"{IMAGE}-checked"
        check = "HEALTHCHECK --interval=200ms --retries=2 --start-period=10s CMD test -e /tmp/well"
        engine.derive_image(image, check)
        async with node_on(engine, tmp_path) as node:
            container = ContainerSpec(image=image, stop_grace_period_s=0.2)
            controller = await node.task("sleep 0.6; echo > /tmp/well; sleep 2; rm /tmp/well; sleep 100000", container)
            await begin(controller)
            await controller.ready()
            end = await controller.wait()
            assert (end.ok, end.message) == (False, "unhealthy container")

    run_async(scenario())


def test_a_check_of_the_spec_is_asked_by_the_agent(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            check = HealthCheck(test=("CMD", "test", "-e", "/tmp/well"), interval_s=0.2, timeout_s=5, retries=2)
            container = ContainerSpec(
                health_check=msgspec.structs.replace(check, start_period_s=10), stop_grace_period_s=0.2
            )
            health = Health(SystemClock(), "127.0.0.1")
            script = (
                "sleep 0.6; echo > /tmp/well; while [ ! -e /tmp/ill ]; do sleep 0.05; done; rm /tmp/well; sleep 100000"
            )
            controller = await node.task(script, container)
            await begin(controller)
            await health.served(controller, container)
            assert (await run_command(controller, ("touch", "/tmp/ill"), 10)).code == 0
            end = await health.ended(controller, container)
            assert (end.ok, end.message) == (False, "unhealthy: exit code 1")
            never = await node.task("sleep 100000", msgspec.structs.replace(container, health_check=check))
            await begin(never)
            with pytest.raises(Failed, match="never healthy: exit code 1"):
                await health.served(never, msgspec.structs.replace(container, health_check=check))

    run_async(scenario())


def test_a_port_inside_a_container_can_be_asked(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            check = HealthCheck(test=("HTTP", ":8000/index.html"), interval_s=0.2, start_period_s=20)
            container = ContainerSpec(health_check=check)
            script = "echo hello > /tmp/index.html; exec httpd -f -h /tmp -p 8000"
            controller = await node.task(script, container, options={})
            await begin(controller)
            await Health(SystemClock(), "127.0.0.1").served(controller, container)

    run_async(scenario())


def test_commands_in_a_container_talk_both_ways(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            controller = await node.task("sleep 100000", ContainerSpec(env=("COLOUR=red",)))
            await begin(controller)
            script = "echo $COLOUR $MORE; read line; echo got $line; echo oops >&2; exit 3"
            conversation = await controller.open_exec(
                Command(argv=("sh", "-c", script), env=("MORE=blue",), input=True)
            )
            await conversation.write(b"a word\n")
            await conversation.close_input()
            said: dict[LogStream, bytes] = {}
            async with aclosing(conversation.output()) as pieces:
                async for stream, piece in pieces:
                    said[stream] = said.get(stream, b"") + piece
            assert said == {LogStream.STDOUT: b"red blue\ngot a word\n", LogStream.STDERR: b"oops\n"}
            assert await conversation.wait() == 3
            await conversation.close()
            with pytest.raises(TimeoutError):
                await run_command(controller, ("sh", "-c", "exec sleep 7654321"), 0.3)
            await eventually(lambda: "7654321" not in engine.cli("top", conversation_container(node)))

    run_async(scenario())


def conversation_container(node: Node) -> str:
    return f"s{node.node_id[:6]}.1.{task_id(1)}"


def test_attaching_joins_the_main_process(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            controller = await node.task("read line; echo got $line; exit 5", ContainerSpec(open_stdin=True))
            await begin(controller)
            conversation = await controller.attach()
            await conversation.write(b"this\n")
            async with aclosing(conversation.output()) as pieces:
                assert await anext(pieces) == (LogStream.STDOUT, b"got this\n")
            assert await conversation.wait() == 5
            await conversation.close()

    run_async(scenario())


def test_an_image_is_pulled_with_the_services_credentials_and_its_progress_is_told(
    engine: DockerEngine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            with one_registry() as registry:
                image = registry.image
                for auth in ("", credentials("wrong")):
                    refused = await node.task("", ContainerSpec(image=image, registry_auth=auth))
                    with pytest.raises(Rejected, match="cannot get image"):
                        await refused.prepare()
                assert registry.refused > 0
                registry.gate.clear()
                controller = await node.task("", ContainerSpec(image=image, registry_auth=credentials()))
                told: list[str] = []
                controller.on_progress(told.append)
                given_up = asyncio.ensure_future(controller.prepare())
                await eventually(lambda: told)
                given_up.cancel()
                async with asyncio.timeout(5):
                    await asyncio.wait({given_up})
                registry.gate.set()
                await controller.prepare()
                assert all(line.startswith(f"pulling {image}: ") for line in told)
                await controller.remove()
                engine.cli("image", "rm", image)
                node.credentials.replace((RegistryAuth(registry=registry_of(image), auth=credentials()),))
                with_the_swarms = await node.task("", ContainerSpec(image=image))
                await with_the_swarms.prepare()
                await with_the_swarms.remove()
            engine.cli("image", "rm", image)

    run_async(scenario())


def test_signals_measurements_and_devices(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            container = ContainerSpec(devices=("/dev/null:/dev/nothing",))
            script = "trap 'exit 9' USR1; ls /dev/nothing; while :; do sleep 0.05; done"
            controller = await node.task(script, container)
            await begin(controller)
            async with aclosing(controller.logs(LogOptions(follow=True))) as batches:
                await anext(batches)
            measured = await controller.stats()
            assert measured.memory_bytes > 0
            assert measured.cpu_s > 0
            await controller.signal(10)
            assert (await controller.wait()).code == 9
            assert await lines_of(controller) == ["/dev/nothing"]

    run_async(scenario())


def test_tasks_live_through_a_crash_of_the_engine(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_on(engine, tmp_path) as node:
            living = [await node.task("sleep 100000") for _ in range(4)]
            place = _with_directory(tmp_path)
            dying = [
                await node.task(f"while [ ! -e /gone/now ]; do sleep 0.05; done; exit {code}", place)
                for code in range(1, 9)
            ]
            await asyncio.gather(*map(begin, (*living, *dying)))
            before = [await each.inspect() for each in living]
            waits = [asyncio.ensure_future(each.wait()) for each in (*living, *dying)]
            await asyncio.sleep(0)
            await asyncio.to_thread(engine.kill)
            (tmp_path / "gone" / "now").touch()
            await asyncio.to_thread(engine.start)
            ends = await asyncio.gather(*waits[len(living) :])
            assert [end.code for end in ends] == list(range(1, 9))
            assert not any(wait.done() for wait in waits[: len(living)])
            assert [await each.inspect() for each in living] == before, "they are the same ones"
            await asyncio.gather(*(each.terminate() for each in living))
            assert {end.status for end in await asyncio.gather(*waits[: len(living)])} == {137}

    run_async(scenario(), timeout_s=55.0)


def _with_directory(directory: Path) -> ContainerSpec:
    (directory / "gone").mkdir()
    return ContainerSpec(mounts=(Mount(source=str(directory / "gone"), target="/gone"),))


def test_the_node_says_whether_its_engine_answers(engine: DockerEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with one_agent(tmp_path, drivers=("docker", "fake"), docker_socket=engine.socket) as (_, dispatcher):
            await eventually(lambda: dispatcher.registrations)
            assert described(dispatcher).drivers == ("docker", "fake")
            assert described(dispatcher).engine.name == "docker"
            await asyncio.to_thread(engine.kill)
            await eventually(lambda: described(dispatcher).drivers == ("fake",))
            await asyncio.to_thread(engine.start)
            await eventually(lambda: described(dispatcher).drivers == ("docker", "fake"), 20.0)

    run_async(scenario(), timeout_s=55.0)


def test_without_an_engine_the_driver_is_unable_and_the_agent_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        socket = str(tmp_path / "nothing.sock")
        async with one_agent(tmp_path, drivers=("docker", "fake"), docker_socket=socket) as (app, dispatcher):
            await eventually(lambda: dispatcher.registrations)
            assert described(dispatcher).drivers == ("fake",)
            await check_that_a_docker_task_waits(app, dispatcher)

    run_async(scenario())


async def check_that_a_docker_task_waits(app: AgentApp, dispatcher: ScriptedDispatcher) -> None:
    task = TaskSpec(driver="docker", container=ContainerSpec(image=IMAGE))
    dispatcher.assign(make_task(), specs=(make_spec(task=task),))
    await dispatcher.saw(task_id(1), TaskState.PREPARING)
    await eventually(lambda: "no Docker engine" in dispatcher.status(task_id(1)).error)
    assert app.tasks.describe()[0]["state"] == "PREPARING"
