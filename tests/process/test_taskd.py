"""taskd with real processes: how tasks begin, what they see, how they end, and how taskd itself ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.agent.drivers.taskd_client import MAIN_FILE
from services.agent.taskd.records import TaskSpec, User
from services.agent.taskd.wire import Unpacker, pack
from services.kit.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from tests.support.running import eventually
from tests.support.taskd_home import Home, ended, is_alive, run

pytestmark = pytest.mark.process
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FOREVER = "while :; do sleep 1; done"


def test_exit_codes_and_signals_are_told_apart() -> None:
    async def work(home: Home) -> None:
        for code in (0, 1, 9, 137, 255):
            info = await ended(home, home.shell(f"code-{code}", f"exit {code}"))
            assert info.exit is not None
            assert (info.exit.code, info.exit.signal, info.exit.oom) == (code, None, False)
        for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGUSR1):
            info = await ended(home, home.shell(f"signal-{number}", f"kill -{int(number)} $$"))
            assert info.exit is not None
            assert (info.exit.code, info.exit.signal) == (None, number)

    run(work)


def test_a_missing_program_ends_with_127_and_says_so_in_the_log() -> None:
    async def work(home: Home) -> None:
        info = await ended(home, home.spec("missing", "/nonexistent/program"))
        assert info.exit is not None
        assert info.exit.code == 127
        assert "/nonexistent/program: not found" in home.log("missing")

    run(work)


def test_a_task_sees_its_own_environment_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMBUS_TOKEN", "not for tasks")

    async def work(home: Home) -> None:
        spec = home.spec("env", "env")
        await ended(home, spec._replace(env=(*spec.env, 'GREETING=it\'s $HOME; "quoted"')))
        assert set(home.log("env").splitlines()) == {
            *spec.env,
            'GREETING=it\'s $HOME; "quoted"',
            "SWARMBUS_TASK_ID=env",
            "PWD=/",
        }

    run(work)


def test_a_task_has_three_descriptors_a_session_and_the_signals_of_a_fresh_process() -> None:
    async def work(home: Home) -> None:
        script = (
            "import os, signal; print(sorted(map(int, os.listdir('/proc/self/fd'))), os.getsid(0) == os.getpid(), os.getcwd(),"
            "hex(int(open('/proc/self/status').read().split('SigIgn:')[1].split()[0], 16) & 0x7fffffff), sorted(signal.pthread_sigmask(0, ())))"
        )
        await ended(home, home.spec("fresh", sys.executable, "-c", script)._replace(directory="/usr"))
        # The fourth is the directory that is being listed; Python itself ignores SIGPIPE and SIGXFSZ; above 31 is the C library's.
        assert home.log("fresh") == "[0, 1, 2, 3] True /usr 0x1001000 []"

    run(work)


def test_a_directory_that_is_not_there_is_told_by_125() -> None:
    async def work(home: Home) -> None:
        info = await ended(home, home.shell("nowhere", "echo never")._replace(directory="/nonexistent"))
        assert info.exit is not None
        assert info.exit.code == 125
        assert "never" not in home.log("nowhere")

    run(work)


def test_a_task_that_ignores_the_stop_signal_is_killed_after_its_grace() -> None:
    async def work(home: Home) -> None:
        await home.client.start(home.shell("stubborn", f"trap '' TERM; echo armed; {FOREVER}"))
        await eventually(lambda: "armed" in home.log("stubborn"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        info = await home.client.stop("stubborn", 0.3)
        assert info.exit is not None
        assert info.exit.signal == signal.SIGKILL
        assert loop.time() - began >= 0.3

    run(work)


def test_the_stop_signal_of_the_spec_is_sent_once_and_a_second_stop_only_shortens_the_grace() -> None:
    async def work(home: Home) -> None:
        script = f"n=0; trap 'n=$((n+1)); echo got $n' USR1; echo armed; {FOREVER.replace('sleep 1', 'sleep 0.01')}"
        await home.client.start(home.shell("polite", script)._replace(stop_signal=signal.SIGUSR1))
        await eventually(lambda: "armed" in home.log("polite"))
        first = asyncio.ensure_future(home.client.stop("polite", 60.0))
        await eventually(lambda: "got 1" in home.log("polite"))
        info = await home.client.stop("polite", 0.05)
        assert await first == info
        assert home.log("polite") == "armed\ngot 1"

    run(work)


def test_what_a_task_leaves_in_the_background_ends_with_it() -> None:
    async def work(home: Home) -> None:
        info = await ended(home, home.shell("daemon", "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000 & exit 4"))
        assert info.exit is not None
        assert info.exit.code == 4
        assert [pid for pid in home.processes() if b"sleep" in command(pid)] == []

    run(work)


def test_kill_ends_a_task_with_all_its_children() -> None:
    async def work(home: Home) -> None:
        await home.client.start(
            home.shell("tree", f"for i in 1 2 3 4 5 6 7 8; do setsid sleep 1000 & done; echo grown; {FOREVER}")
        )
        await eventually(lambda: "grown" in home.log("tree"))
        info = await home.client.kill("tree")
        assert info.exit is not None
        assert info.exit.signal == signal.SIGKILL
        assert [pid for pid in home.processes() if b"sleep" in command(pid)] == []

    run(work)


def test_a_start_that_is_repeated_starts_nothing() -> None:
    async def work(home: Home) -> None:
        first = await home.client.start(home.shell("once", FOREVER))
        again = await home.client.start(home.shell("once", "echo other"))
        assert again.pid == first.pid
        await home.client.kill("once")
        assert (await home.client.start(home.shell("once", FOREVER))).exit is not None

    run(work)


def test_many_tasks_are_listed_in_the_order_of_their_ids() -> None:
    async def work(home: Home) -> None:
        names = [f"t{number:04}" for number in range(40)]
        for name in reversed(names):
            await home.client.start(home.spec(name, "true"))
        assert [info.id for info in await home.client.list_tasks()] == names

    run(work)


def test_remove_ends_a_living_task_and_leaves_nothing() -> None:
    async def work(home: Home) -> None:
        scratch = home.root / "scratch"
        (scratch / "deep").mkdir(parents=True)
        spec = home.shell("gone", f"trap '' TERM; {FOREVER}")._replace(scratch=(str(scratch),))
        info = await home.client.start(spec)
        await home.client.remove("gone")
        assert not is_alive(info.pid)
        assert not scratch.exists()
        assert not (home.root / "tasks" / "gone").exists()
        for request in (home.client.inspect, home.client.wait, home.client.remove, home.client.kill):
            with pytest.raises(NotFound):
                await request("gone")

    run(work)


def test_a_spec_that_cannot_run_is_refused_with_the_reason() -> None:
    async def work(home: Home) -> None:
        for spec, reason in (
            (TaskSpec("../escape", ("true",)), "not a task id"),
            (TaskSpec("empty", ()), "command is empty"),
            (TaskSpec("relative", ("true",), directory="here"), "not absolute"),
            (TaskSpec("nul", ("a\0b",)), "NUL"),
        ):
            with pytest.raises(InvalidArgument, match=reason):
                await home.client.start(spec)
        assert await home.client.list_tasks() == []

    run(work)


@needs_root
def test_a_task_over_its_memory_limit_is_killed_and_told_from_other_kills() -> None:
    async def work(home: Home) -> None:
        if "memory" in (await home.client.connect()).unenforced:
            pytest.skip("no memory controller here")
        spec = home.spec("greedy", sys.executable, "-c", "x = b'x' * (256 << 20)")._replace(memory_bytes=32 << 20)
        info = await ended(home, spec)
        assert info.exit is not None
        assert (info.exit.signal, info.exit.oom) == (signal.SIGKILL, True)

    run(work)


@needs_root
def test_a_task_cannot_have_more_processes_than_its_limit() -> None:
    async def work(home: Home) -> None:
        if "pids" in (await home.client.connect()).unenforced:
            pytest.skip("no pids controller here")
        await ended(home, home.shell("forks", "for i in 1 2 3 4 5 6; do sleep 100 & done; echo all")._replace(pids=4))
        assert "Cannot fork" in home.log("forks")

    run(work)


@needs_root
def test_a_cpu_limit_is_held() -> None:
    async def work(home: Home) -> None:
        if "cpu" in (await home.client.connect()).unenforced:
            pytest.skip("no cpu controller here")
        script = (
            "import time; end = time.monotonic() + 1.0\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
        )
        await ended(home, home.spec("busy", sys.executable, "-S", "-c", script)._replace(nano_cpus=200_000_000))
        assert float(home.log("busy")) < 0.6

    run(work)


@needs_root
def test_a_task_runs_as_its_user_with_its_groups_and_may_reopen_its_output() -> None:
    async def work(home: Home) -> None:
        spec = home.shell("user", "id -u; id -g; id -G; echo reopened >/dev/stdout; grep NoNewPrivs /proc/self/status")
        await ended(home, spec._replace(user=User(65534, 65533, (12, 13)), no_new_privileges=True))
        assert home.log("user").split("\n") == ["65534", "65533", "65533 12 13", "reopened", "NoNewPrivs:\t1"]

    run(work)


@needs_root
def test_the_kernel_kills_a_task_before_it_kills_taskd() -> None:
    async def work(home: Home) -> None:
        version = await home.client.connect()
        await ended(home, home.shell("score", "cat /proc/self/oom_score_adj")._replace(oom_score_adj=500))
        await ended(home, home.shell("default", "cat /proc/self/oom_score_adj"))
        assert (home.log("score"), home.log("default")) == ("500", "0")
        assert oom_score(version.pid) < 0 or not may_lower_oom_score()

    run(work)


def test_what_a_task_uses_is_measured() -> None:
    async def work(home: Home) -> None:
        script = "x = b'x' * (20 << 20)\nwhile sum(range(200_000)): print('.', flush=True)"
        await home.client.start(home.spec("busy", sys.executable, "-c", script))
        await eventually(lambda: home.log("busy").count(".") > 20)
        usage = await home.client.stats("busy")
        assert usage.cpu_s > 0.01
        assert usage.memory_bytes > 10 << 20
        assert usage.pids == 1

    run(work)


@needs_root
def test_a_full_disk_costs_output_but_no_exit_code() -> None:
    async def work(home: Home) -> None:
        disk = home.root / "tasks"
        disk.mkdir()
        with small_disk(disk):
            await home.client.start(home.shell("full", "head -c 4000000 /dev/zero; echo more >&2; exit 11"))
            info = await home.client.wait("full")
            assert info.exit is not None
            assert info.exit.code == 11
            assert info.dropped_bytes > 3_000_000
            with pytest.raises(Internal, match="No space left"):
                await home.client.start(home.spec("another", "true"))
            assert [found.id for found in await home.client.list_tasks()] == ["full"]
            await home.client._request("reexec", executable=sys.executable, main=str(MAIN_FILE))
            kept = (await home.client.inspect("full")).exit
            assert kept is not None
            assert kept.code == 11, "a successor is told what could not be written"
            await home.client.remove("full")
            assert (await ended(home, home.shell("later", "exit 12"))).exit is not None
            await home.client.stop_all(0.0)
            await home.client.close()
            await eventually(lambda: not home.processes())
        home.client = home.new_client()

    run(work)


def test_only_our_user_can_reach_the_socket_and_the_tasks() -> None:
    async def work(home: Home) -> None:
        await home.client.start(home.shell("private", FOREVER))
        assert stat.S_IMODE(home.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE((home.root / "tasks").stat().st_mode) == 0o700
        for path in (home.root / "tasks" / "private").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    run(work)


def test_nonsense_on_the_socket_ends_that_connection_only() -> None:
    async def work(home: Home) -> None:
        await home.client.start(home.shell("calm", FOREVER))
        for nonsense in (b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x03{no"):
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(home.socket))
                line.sendall(nonsense)
                line.settimeout(10)
                received = b""
                while data := line.recv(4096):
                    received += data
                (answer,) = Unpacker().feed(received)
                assert "error" in answer
        with pytest.raises(InvalidArgument):
            await home.client._request("no-such-operation")
        assert (await home.client.inspect("calm")).exit is None

    run(work)


def test_every_end_is_told_to_those_who_subscribed() -> None:
    async def work(home: Home) -> None:
        await home.client.connect()
        reader, writer = await asyncio.open_unix_connection(home.socket)
        writer.write(pack({"seq": 1, "op": "subscribe"}))
        unpacker = Unpacker()
        messages = unpacker.feed(await reader.read(4096))
        assert messages.pop(0) == {"seq": 1, "result": {}}
        await ended(home, home.shell("told", "exit 3"))
        while not messages:
            messages = unpacker.feed(await reader.read(4096))
        assert messages[0]["event"] == "exit"
        assert '"code": 3' in str(messages[0]).replace("'", '"')
        writer.close()

    run(work)


def test_there_is_one_taskd_for_a_directory() -> None:
    async def work(home: Home) -> None:
        clients = [home.new_client() for _ in range(4)]
        versions = await asyncio.gather(*(client.connect() for client in clients))
        assert len({version.pid for version in versions}) == 1

    run(work)


def test_taskd_does_not_quit_while_a_task_lives() -> None:
    async def work(home: Home) -> None:
        version = await home.client.connect()
        await home.client.start(home.shell("alive", FOREVER))
        with pytest.raises(FailedPrecondition, match="1 tasks live"):
            await home.client._request("quit")
        os.kill(version.pid, signal.SIGTERM)
        await home.client.quit_when_empty()
        assert (await home.client.inspect("alive")).exit is None
        await home.client.kill("alive")
        await eventually(lambda: not is_alive(version.pid))

    run(work)


def test_a_new_agent_keeps_a_taskd_that_was_to_quit() -> None:
    async def work(home: Home) -> None:
        version = await home.client.connect()
        await home.client.start(home.shell("last", FOREVER))
        await home.client.quit_when_empty()
        await home.client.close()
        successor = home.new_client()
        await successor.connect()
        await successor.kill("last")
        assert (await successor.connect()).pid == version.pid
        assert is_alive(version.pid)

    run(work)


def test_taskd_ends_after_a_while_without_tasks_and_clients() -> None:
    async def work(home: Home) -> None:
        client = home.new_client(idle_exit_s=0.05)
        version = await client.connect()
        await client.start(home.shell("short", "exit 5"))
        await client.wait("short")
        assert is_alive(version.pid), "somebody is connected"
        await client.close()
        await eventually(lambda: not is_alive(version.pid))
        info = await home.client.inspect("short")
        assert info.exit is not None
        assert info.exit.code == 5, "the record outlives taskd"

    run(work)


def test_stop_all_leaves_nothing_whether_taskd_runs_or_was_killed() -> None:
    async def work(home: Home) -> None:
        for killed in (False, True):
            for number in range(5):
                await home.client.start(home.shell(f"t{number}", f"trap '' TERM; {FOREVER}"))
            if killed:
                await home.client.close()
                taskd = home.taskd()
                os.kill(taskd, signal.SIGKILL)
                await eventually(lambda pid=taskd: not is_alive(pid))  # type: ignore[misc]
            command = (sys.executable, "-m", "services.agent.taskd.stop_all", str(home.root), str(home.socket), "0.1")
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=30, check=False
            )
            assert done.returncode == 0, done.stderr
            await eventually(lambda: not home.processes())

    run(work)


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", place], check=True)
    try:
        yield
    finally:
        # Lazily: a failed test may have left somebody in it.
        subprocess.run(["umount", "--lazy", place], check=True)


def oom_score(pid: int) -> int:
    with open(f"/proc/{pid}/oom_score_adj") as file:
        return int(file.read())


def may_lower_oom_score() -> bool:
    """Tell whether root has kept CAP_SYS_RESOURCE here."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            before = file.read()
            file.write("-1")
            file.flush()
            file.write(before)
    except OSError:
        return False
    return True


def command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
