"""The process driver with real processes: ports, files, logs, users, limits, and going on after the agent or taskd was ended."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import stat
import sys
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from services.agent.core.bundle import Payload, PayloadKind
from services.agent.drivers.api import (
    AlreadyPrepared,
    AlreadyStarted,
    Command,
    Controller,
    Conversation,
    Rejected,
    SupportsExec,
    SupportsSignal,
    SupportsStats,
    TaskGone,
    Unsupported,
)
from services.agent.drivers.task_files import FileStore, TaskFile
from services.agent.drivers.task_logs import LogReader
from services.agent.drivers.task_ports import FIRST_PORT, LAST_PORT
from services.agent.shell.inside import run_command
from services.kit.messages.logs import LogOptions
from services.kit.model.ids import ConfigId, SecretId
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    DriverConfig,
    FileTarget,
    GenericResource,
    Mount,
    PortConfig,
    Privileges,
    ResourceRequirements,
    Resources,
    SecretReference,
    SecretSpec,
    TaskSpec,
)
from services.kit.model.states import LogStream, PublishMode
from tests.support.process_tasks import Workshop, bundle_of, lines_of, run, shell, text_of
from tests.support.running import eventually
from tests.support.taskd_home import is_alive

pytestmark = pytest.mark.process
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FOREVER = "while :; do sleep 1; done"


def test_a_task_lives_from_prepare_to_remove() -> None:
    async def work(shop: Workshop) -> None:
        controller = await shop.running(bundle_of("t1", shell("echo hello; pwd; exit 7")))
        end = await controller.wait()
        assert (end.code, end.ok, end.status) == (7, False, 7)
        assert end.finished_at > 0
        assert await text_of(controller) == ["hello", str(shop.state_dir / "worker/process/t1/work")]
        await controller.remove()
        assert not (shop.state_dir / "worker/process/t1").exists()
        assert not (shop.state_dir / "worker/tasks/t1").exists()

    run(work)


def test_every_verb_may_be_repeated() -> None:
    async def work(shop: Workshop) -> None:
        bundle = bundle_of("t1", shell(FOREVER))
        controller = await shop.running(bundle)
        with pytest.raises(AlreadyPrepared):
            await controller.prepare()
        with pytest.raises(AlreadyStarted):
            await controller.start()
        for _ in range(2):
            await controller.shutdown(5.0)
            await controller.terminate()
        assert (await controller.wait()).signal == (await controller.wait()).signal == signal.SIGTERM
        with pytest.raises(AlreadyStarted):
            await controller.start()
        for _ in range(2):
            await controller.remove()
            await controller.shutdown(1.0)
            await controller.terminate()
        with pytest.raises(TaskGone):
            await controller.wait()
        with pytest.raises(TaskGone):
            await controller.inspect()

    run(work)


def test_nothing_is_started_to_say_that_there_is_nothing() -> None:
    async def work(shop: Workshop) -> None:
        controller = await shop.controller(bundle_of("t1", shell("exit 0")))
        await controller.remove()
        await controller.shutdown(1.0)
        assert [found async for found in shop.driver.recover()] == []
        assert not (shop.state_dir / "run/taskd.sock").exists()

    run(work)


def test_ports_are_chosen_told_to_the_task_and_reported() -> None:
    async def work(shop: Workshop) -> None:
        ports = (
            PortConfig(name="web-ui", target_port=80, published_port=8080),
            PortConfig(target_port=443),
            PortConfig(name="fixed", target_port=9000, published_port=19999, publish_mode=PublishMode.HOST),
        )
        container = ContainerSpec(
            command=("sh", "-c", 'echo "$PORT $PORT_WEB_UI $PORT_FIXED $COPY $*"', "-"),
            args=("{{.Task.Port}}", '{{.Task.Port "fixed"}}'),
            env=('COPY={{.Task.Port "web-ui"}}',),
        )
        controller = await shop.running(bundle_of("t1", container, ports=ports))
        await controller.wait()
        first, second, third = (await controller.inspect()).ports
        assert (first.target_port, second.target_port, third.target_port) == (80, 443, 9000)
        assert third.port == 19999
        assert first.port != second.port
        assert all(FIRST_PORT <= status.port <= LAST_PORT for status in (first, second))
        assert await text_of(controller) == [f"{first.port} {first.port} 19999 {first.port} {first.port} 19999"]

    run(work)


def test_a_task_may_ask_for_a_port_that_its_service_does_not_publish() -> None:
    async def work(shop: Workshop) -> None:
        container = ContainerSpec(command=("echo", "{{.Task.Port}}"))
        controller = await shop.running(bundle_of("t1", container))
        await controller.wait()
        (line,) = await text_of(controller)
        assert FIRST_PORT <= int(line) <= LAST_PORT
        assert (await controller.inspect()).ports == ()

    run(work)


def test_a_port_in_use_is_not_given_and_a_given_one_is_not_given_again() -> None:
    async def work(shop: Workshop) -> None:
        ports = (PortConfig(target_port=80),)
        first = await shop.running(bundle_of("t1", shell(FOREVER), ports=ports))
        taken = (await first.inspect()).ports[0].port
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", FIRST_PORT + (taken + 1 - FIRST_PORT) % (LAST_PORT - FIRST_PORT + 1)))
            stranger.listen()
            second = await shop.running(bundle_of("t2", shell(FOREVER), ports=ports))
            assert (await second.inspect()).ports[0].port not in {taken, stranger.getsockname()[1]}
        await shop.unload(politely=False)
        await shop.load()
        assert (await (await shop.controller(bundle_of("t1", shell("")))).inspect()).ports[0].port == taken
        third = await shop.running(bundle_of("t3", shell(FOREVER), ports=ports))
        assert (await third.inspect()).ports[0].port != taken

    run(work)


def test_secrets_and_configs_are_files_for_the_task_alone_and_go_with_it() -> None:
    async def work(shop: Workshop) -> None:
        secret = Secret(id=SecretId("s1"), spec=SecretSpec(annotations=Annotations(name="key"), data=b"hush"))
        config = Config(id=ConfigId("c1"), spec=ConfigSpec(annotations=Annotations(name="conf"), data=b"a=1"))
        container = ContainerSpec(
            command=(
                "sh",
                "-c",
                'cat "$SWARMBUS_SECRETS_DIR/key" "$SWARMBUS_CONFIGS_DIR/app/conf"; echo; dirname "$SWARMBUS_SECRETS_DIR"; '
                "until [ -e seen ]; do sleep 0.01; done",
            ),
            secrets=(
                SecretReference(secret_id=secret.id, secret_name="key", target=FileTarget(name="key", mode=0o400)),
            ),
            configs=(ConfigReference(config_id=config.id, config_name="conf", target=FileTarget(name="app/conf")),),
        )
        bundle = bundle_of("t1", container, secrets=(secret,), configs=(config,))
        controller = await shop.controller(bundle)
        await controller.prepare()
        # What is in memory only is gone after a restart of the machine, and is made again.
        FileStore.of(shop.state_dir).remove("t1")
        await controller.start()
        await eventually(lambda: len(lines_until_now(shop, "t1")) == 2)
        text, directory = lines_until_now(shop, "t1")
        assert text == "husha=1"
        top = Path(directory)
        assert permissions(top) == 0o700
        assert permissions(top / "secrets/key") == 0o400
        assert top.name == "t1"
        (shop.state_dir / "worker/process/t1/work/seen").touch()
        await controller.wait()
        assert not top.exists(), "what has ended needs no secrets"
        await controller.remove()
        assert not top.parent.exists()

    run(work)


def lines_until_now(shop: Workshop, task_id: str) -> list[str]:
    return [line.data.decode() for line in LogReader(shop.state_dir / "worker/tasks" / task_id).read()]


def test_payloads_are_templates_that_know_ports_variables_and_each_other() -> None:
    async def work(shop: Workshop) -> None:
        secret = Secret(id=SecretId("s1"), spec=SecretSpec(annotations=Annotations(name="key"), data=b"hush"))
        text = b'slot {{.Task.Slot}} port {{.Task.Port}} {{env "COLOUR"}} {{secret "key"}}'
        spec = ConfigSpec(annotations=Annotations(name="conf"), data=text, templating="golang")
        config = Config(id=ConfigId("c1"), spec=spec)
        container = ContainerSpec(
            command=("sh", "-c", 'cat "$SWARMBUS_CONFIGS_DIR/conf"; echo; echo $PORT'),
            env=("COLOUR=red",),
            secrets=(SecretReference(secret_id=secret.id, secret_name="key", target=FileTarget(name="key")),),
            configs=(ConfigReference(config_id=config.id, config_name="conf", target=FileTarget(name="conf")),),
        )
        controller = await shop.running(bundle_of("t1", container, secrets=(secret,), configs=(config,)))
        await controller.wait()
        filled, port = await text_of(controller)
        assert filled == f"slot 1 port {port} red hush"

    run(work)


def test_a_secret_is_never_on_a_disk() -> None:
    async def work(shop: Workshop) -> None:
        on_disk = FileStore(base=shop.state_dir / "worker" / "files", in_memory=False)
        key = Payload(kind=PayloadKind.SECRET, target=FileTarget(name="key"), data=b"hush", sensitive=True)
        conf = Payload(kind=PayloadKind.CONFIG, target=FileTarget(name="conf"), data=b"a=1", sensitive=False)
        with pytest.raises(Rejected, match="no file system in memory"):
            on_disk.write("t1", [TaskFile("secrets/key", key, key.data)], None)
        on_disk.write("t1", [TaskFile("configs/conf", conf, conf.data)], None)
        assert (on_disk.directory("t1") / "configs/conf").read_bytes() == b"a=1"
        on_disk.remove("t1")

    run(work)


def test_generic_resources_that_were_dealt_are_named_to_the_task() -> None:
    async def work(shop: Workshop) -> None:
        container = ContainerSpec(command=("sh", "-c", "echo $SWARMBUS_RESOURCE_GPU $DOCKER_RESOURCE_SSD"))
        bundle = bundle_of("t1", container)
        dealt = (GenericResource(kind="gpu", names=("a", "b")), GenericResource(kind="SSD", count=2))
        task = msgspec.structs.replace(bundle.task, generic=dealt)
        controller = await shop.running(dataclasses.replace(bundle, task=task))
        await controller.wait()
        assert await text_of(controller) == ["a,b 2"]

    run(work)


def test_a_file_cannot_be_put_outside_its_directory() -> None:
    async def work(shop: Workshop) -> None:
        secret = Secret(id=SecretId("s1"), spec=SecretSpec(annotations=Annotations(name="key"), data=b"hush"))
        for name in ("../../escape", "/etc/escape"):
            use = SecretReference(secret_id=secret.id, secret_name="key", target=FileTarget(name=name))
            controller = await shop.controller(
                bundle_of("t1", ContainerSpec(command=("true",), secrets=(use,)), secrets=(secret,))
            )
            with pytest.raises(Rejected, match="below their own directory"):
                await controller.prepare()
            await controller.remove()

    run(work)


def test_what_a_process_cannot_be_given_is_refused_by_name() -> None:
    async def work(shop: Workshop) -> None:
        for container, spec, field in (
            (ContainerSpec(image="nginx"), TaskSpec(), "container.image"),
            (ContainerSpec(hostname="h"), TaskSpec(), "container.hostname"),
            (ContainerSpec(mounts=(Mount(target="/x", source="/y"),)), TaskSpec(), "container.mounts"),
            (
                ContainerSpec(privileges=Privileges(seccomp_mode="unconfined")),
                TaskSpec(),
                "container.privileges.seccomp_mode",
            ),
            (ContainerSpec(isolation="vm"), TaskSpec(), "container.isolation"),
            (ContainerSpec(), TaskSpec(log_driver=DriverConfig(name="syslog")), "task.log_driver"),
            (ContainerSpec(), TaskSpec(resources=ResourceRequirements(swap_bytes=1)), "task.resources.swap_bytes"),
            (ContainerSpec(), TaskSpec(driver_options={"colour": "red"}), "driver_options.colour"),
        ):
            controller = await shop.controller(bundle_of("t1", container, spec=spec))
            with pytest.raises(Unsupported) as caught:
                await controller.prepare()
            assert caught.value.fields == (field,)
        assert not (shop.state_dir / "worker/process/t1").exists()

    run(work)


def test_what_this_node_cannot_do_is_rejected_with_the_reason() -> None:
    async def work(shop: Workshop) -> None:
        for container, options, reason in (
            (ContainerSpec(), {}, "needs a command"),
            (ContainerSpec(command=("true",), dir="/nonexistent"), {}, "no directory /nonexistent"),
            (ContainerSpec(command=("true",), stop_signal="SIGNOPE"), {}, "no signal"),
            (ContainerSpec(command=("true",), user="nobody-here"), {}, "no user 'nobody-here'"),
            (ContainerSpec(command=("true",)), {"log_files_max": "one"}, "log_files_max"),
            (ContainerSpec(command=("true",)), {"log_files_max": "1"}, "at least 2 files"),
        ):
            controller = await shop.controller(bundle_of("t1", container, spec=TaskSpec(driver_options=options)))
            with pytest.raises(Rejected, match=reason):
                await controller.prepare()

    run(work)


@needs_root
def test_user_groups_directory_and_rights_are_honoured() -> None:
    async def work(shop: Workshop) -> None:
        container = ContainerSpec(
            command=("sh", "-c", 'id -un; id -G; pwd; echo "$USER $HOME"; grep NoNewPrivs /proc/self/status'),
            user="daemon",
            groups=("adm", "4242"),
            dir="/usr",
            privileges=Privileges(no_new_privileges=True),
        )
        controller = await shop.running(bundle_of("t1", container))
        await controller.wait()
        assert await text_of(controller) == ["daemon", "1 4 4242", "/usr", "daemon /usr/sbin", "NoNewPrivs:\t1"]
        own = await shop.running(bundle_of("t2", ContainerSpec(command=("sh", "-c", "touch mine && ls"), user="65534")))
        assert (await own.wait()).ok
        assert await text_of(own) == ["mine"]

    run(work)


@needs_root
def test_a_task_over_its_memory_is_told_from_one_that_was_killed() -> None:
    async def work(shop: Workshop) -> None:
        async for fingerprint in shop.driver.fingerprint():
            if "memory" in fingerprint.unenforced:
                pytest.skip("no memory controller here")
            break
        spec = TaskSpec(resources=ResourceRequirements(limits=Resources(memory_bytes=32 << 20)))
        greedy = ContainerSpec(command=(sys.executable, "-c", "x = b'x' * (256 << 20)"))
        end = await (await shop.running(bundle_of("t1", greedy, spec=spec))).wait()
        assert (end.oom, end.signal) == (True, signal.SIGKILL)
        assert "memory" in end.reason
        killed = await shop.running(bundle_of("t2", shell(FOREVER), spec=spec))
        await killed.terminate()
        end = await killed.wait()
        assert (end.oom, end.signal) == (False, signal.SIGKILL)

    run(work)


def test_the_stop_signal_is_the_users_and_the_grace_ends_in_a_kill() -> None:
    async def work(shop: Workshop) -> None:
        polite = ContainerSpec(
            command=("sh", "-c", f"trap 'exit 12' INT; echo armed; {FOREVER.replace('1', '0.02')}"), stop_signal="int"
        )
        controller = await shop.running(bundle_of("t1", polite))
        await logged(controller, "armed")
        await controller.shutdown(20.0)
        assert (await controller.wait()).code == 12
        stubborn = await shop.running(bundle_of("t2", shell(f"trap '' TERM; echo armed; {FOREVER}")))
        await logged(stubborn, "armed")
        await stubborn.shutdown(0.1)
        assert (await stubborn.wait()).signal == signal.SIGKILL

    run(work)


def test_logs_by_tail_since_and_stream() -> None:
    async def work(shop: Workshop) -> None:
        controller = await shop.running(
            bundle_of("t1", shell("echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c; printf d"))
        )
        await controller.wait()
        lines = await lines_of(controller)
        assert [(line.stream, line.data) for line in lines] == [
            (LogStream.STDOUT, b"a"),
            (LogStream.STDERR, b"b"),
            (LogStream.STDOUT, b"c"),
            (LogStream.STDOUT, b"d"),
        ]
        assert await text_of(controller, LogOptions(tail=2)) == ["c", "d"]
        assert await text_of(controller, LogOptions(tail=0)) == []
        assert await text_of(controller, LogOptions(since=lines[1].timestamp)) == ["b", "c", "d"]
        assert await text_of(controller, LogOptions(streams=(LogStream.STDERR,))) == ["b"]

    run(work)


def test_a_follower_sees_every_line_through_rotation_and_a_kill_of_taskd() -> None:
    async def work(shop: Workshop) -> None:
        count = 3000
        script = f"n=0; while [ $n -lt {count} ]; do echo line $n; n=$((n+1)); [ $((n % 100)) = 0 ] && sleep 0.02; done; exit 0"
        spec = TaskSpec(driver_options={"log_bytes_max": "4096", "log_files_max": "4"})
        controller = await shop.running(bundle_of("t1", shell(script), spec=spec))
        following = asyncio.ensure_future(text_of(controller, LogOptions(follow=True)))
        await eventually(lambda: len(shop.home.log("t1")) > 1000)
        taskd = shop.home.taskd()
        os.kill(taskd, signal.SIGKILL)
        assert (await controller.wait()).code == 0
        assert await following == [f"line {n}" for n in range(count)]
        assert len(list((shop.state_dir / "worker/tasks/t1").glob("log.??????"))) == 4

    run(work)


def test_following_a_removed_task_ends() -> None:
    async def work(shop: Workshop) -> None:
        controller = await shop.running(bundle_of("t1", shell(f"echo hi; {FOREVER}")))
        following = asyncio.ensure_future(text_of(controller, LogOptions(follow=True)))
        await logged(controller, "hi")
        await controller.remove()
        assert await following == ["hi"]

    run(work)


@pytest.mark.parametrize("politely", [True, False])
def test_tasks_go_on_without_their_agent_and_are_found_by_the_next(politely: bool) -> None:
    async def work(shop: Workshop) -> None:
        gate = shop.state_dir / "gate"
        os.mkfifo(gate)
        await shop.running(bundle_of("t1", shell(f"read word <{gate}; exit 5")))
        lasting = await shop.running(bundle_of("t2", shell(FOREVER)))
        pid = (await lasting.inspect()).pid
        await shop.unload(politely=politely)
        gate.write_text("go\n")
        await eventually((shop.state_dir / "worker/tasks/t1/exit.json").exists)
        await shop.load()
        found = {item.task_id: item for item in [item async for item in shop.driver.recover()]}
        assert {task_id: item.running for task_id, item in found.items()} == {"t1": False, "t2": True}
        controller = await shop.driver.controller(bundle_of("t1", shell("")), found["t1"].handle)  # type: ignore[index]
        with pytest.raises(AlreadyStarted):
            await controller.start()
        assert (await controller.wait()).code == 5
        assert is_alive(pid)
        await shop.driver.discard(found["t2"])  # type: ignore[index]
        assert not is_alive(pid)

    run(work)


def test_the_last_words_of_a_task_that_ends_while_taskd_is_dead_are_kept() -> None:
    async def work(shop: Workshop) -> None:
        gate = shop.state_dir / "gate"
        os.mkfifo(gate)
        controller = await shop.running(bundle_of("t1", shell(f"echo first; read word <{gate}; echo last; exit 3")))
        await logged(controller, "first")
        waiting = asyncio.ensure_future(controller.wait())
        await asyncio.sleep(0)
        pid = (await controller.inspect()).pid
        taskd = shop.home.taskd()
        # The loop stands still meanwhile, so that the task ends before anybody has seen that taskd is dead.
        os.kill(taskd, signal.SIGKILL)
        gate.write_text("go\n")
        end_by = asyncio.get_running_loop().time() + 10
        while is_alive(pid):
            assert asyncio.get_running_loop().time() < end_by
        assert (await waiting).code == 3
        assert await text_of(controller) == ["first", "last"]

    run(work)


def test_a_command_runs_inside_its_task_and_leaves_nothing() -> None:
    async def work(shop: Workshop) -> None:
        container = ContainerSpec(command=("sh", "-c", f"touch here; {FOREVER}"), env=("COLOUR=red",))
        controller = await shop.running(bundle_of("t1", container))
        assert isinstance(controller, SupportsExec)
        await eventually((shop.state_dir / "worker/process/t1/work/here").exists)
        script = "ls; echo $COLOUR $MORE; read line; echo got $line; echo oops >&2; exit 3"
        conversation = await controller.open_exec(Command(argv=("sh", "-c", script), env=("MORE=blue",), input=True))
        await conversation.write(b"a word\n")
        await conversation.close_input()
        said = await said_by(conversation)
        assert said == {LogStream.STDOUT: b"here\nred blue\ngot a word\n", LogStream.STDERR: b"oops\n"}
        assert await conversation.wait() == 3
        await conversation.close()
        with pytest.raises(TimeoutError):
            await run_command(controller, ("sh", "-c", "sleep 100000 & sleep 100000"), 0.2)
        assert isinstance(controller, SupportsStats)
        assert (await controller.stats()).pids <= 2, "what was killed is gone"
        missing = await run_command(controller, ("no-such-program",), 10)
        assert missing.code == 127

    run(work)


def test_a_command_has_the_limits_and_the_end_of_its_task() -> None:
    async def work(shop: Workshop) -> None:
        controller = await shop.running(bundle_of("t1", shell(FOREVER)))
        assert isinstance(controller, SupportsExec)
        conversation = await controller.open_exec(Command(argv=("sh", "-c", "cat /proc/self/cgroup; sleep 100000")))
        async with aclosing(conversation.output()) as pieces:
            _, groups = await anext(pieces)
            if (await shop.driver.fingerprint().__anext__()).attributes["process.kill_by"] != "process-group":
                assert b"/t1" in groups
                await controller.terminate()
                assert await conversation.wait() == 137
        await conversation.close()

    run(work)


def test_a_command_with_a_terminal_can_be_interrupted_and_sees_its_size() -> None:
    async def work(shop: Workshop) -> None:
        controller = await shop.running(bundle_of("t1", shell(FOREVER)))
        assert isinstance(controller, SupportsExec)
        conversation = await controller.open_exec(
            Command(
                argv=("sh", "-c", "trap 'stty size; exit 4' INT; echo ready; while :; do sleep 0.05; done"),
                terminal=True,
                input=True,
            )
        )
        await conversation.resize(33, 101)
        said = b""
        async with aclosing(conversation.output()) as pieces:
            async for stream, piece in pieces:
                assert stream is LogStream.STDOUT
                said += piece
                if b"ready" in said and b"^C" not in said:
                    await conversation.write(b"\x03")
        assert await conversation.wait() == 4
        assert b"33 101" in said
        await conversation.close()

    run(work)


async def said_by(conversation: Conversation) -> dict[LogStream, bytes]:
    said: dict[LogStream, bytes] = {}
    async with aclosing(conversation.output()) as pieces:
        async for stream, piece in pieces:
            said[stream] = said.get(stream, b"") + piece
    return said


def test_signals_and_measurements_reach_the_task() -> None:
    async def work(shop: Workshop) -> None:
        controller = await shop.running(
            bundle_of("t1", shell(f"trap 'echo got; exit 0' USR2; echo armed; {FOREVER.replace('1', '0.02')}"))
        )
        await logged(controller, "armed")
        assert isinstance(controller, SupportsStats)
        assert (await controller.stats()).pids >= 1
        assert isinstance(controller, SupportsSignal)
        await controller.signal(signal.SIGUSR2)
        assert (await controller.wait()).code == 0

    run(work)


def test_the_fingerprint_says_what_this_node_can_do() -> None:
    async def work(shop: Workshop) -> None:
        async for fingerprint in shop.driver.fingerprint():
            assert fingerprint.healthy
            assert fingerprint.attributes["process.kill_by"] in {"cgroup", "freezer", "process-group"}
            assert set(fingerprint.unenforced) <= {"cpu", "memory", "pids"}
            break

    run(work)


async def logged(controller: Controller, text: str) -> None:
    """Wait until a task has written a line."""
    async with asyncio.timeout(10):
        while text not in await text_of(controller):  # noqa: ASYNC110 - the log is a file
            await asyncio.sleep(0.01)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
