"""Nothing of ours that ends touches a task: agent gone, taskd killed, taskd replaced in place. Every exit code and log line is kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from services.agent.drivers.taskd_client import MAIN_FILE
from services.agent.taskd.processes import become_subreaper
from services.agent.taskd.records import TaskInfo
from tests.support.running import eventually
from tests.support.taskd_home import Home, is_alive, run

pytestmark = pytest.mark.process
FOREVER = "while :; do sleep 1; done"
TASKS = 20
LINES = 40


def counting(code: int) -> str:
    """Return a script that writes lines for a while and ends with its own code."""
    return f"n=0; while [ $n -lt {LINES} ]; do echo line $n; n=$((n+1)); sleep 0.03; done; echo bye >&2; exit {code}"


def code_of(info: TaskInfo) -> int | None:
    assert info.exit is not None
    return info.exit.code


async def expect_all_kept(home: Home) -> None:
    """Wait for the counting tasks; each has its own code and all its lines."""
    for code in range(TASKS):
        assert code_of(await home.client.wait(f"t{code}")) == code
        assert home.log(f"t{code}").split("\n") == [*(f"line {n}" for n in range(LINES)), "bye"]


def test_tasks_that_end_while_no_agent_is_there_keep_codes_and_logs() -> None:
    async def work(home: Home) -> None:
        for code in range(TASKS):
            await home.client.start(home.shell(f"t{code}", counting(code)))
        await home.client.close()
        home.client = home.new_client()
        exits = [home.root / "tasks" / f"t{code}" / "exit.json" for code in range(TASKS)]
        await eventually(lambda: all(path.exists() for path in exits), 20.0)
        await expect_all_kept(home)

    run(work)


def test_tasks_live_through_the_kill_of_taskd() -> None:
    async def work(home: Home) -> None:
        become_subreaper()
        for code in range(TASKS):
            await home.client.start(home.shell(f"t{code}", counting(code)))
        for _ in range(3):
            version = await home.client.connect()
            os.kill(version.pid, signal.SIGKILL)
            await eventually(lambda pid=version.pid: not is_alive(pid))  # type: ignore[misc]
            # The client notices by itself and starts the next one.
            assert (await home.client.inspect("t0")).pid > 0
        await expect_all_kept(home)
        bury()

    run(work)


def test_a_task_that_ends_while_taskd_is_dead_tells_its_code_from_the_grave() -> None:
    async def work(home: Home) -> None:
        become_subreaper()
        gate = home.root / "gate"
        os.mkfifo(gate)
        info = await home.client.start(home.shell("orphan", f"read word <{gate}; exit 42"))
        version = await home.client.connect()
        await home.client.close()
        os.kill(version.pid, signal.SIGKILL)
        await eventually(lambda: not is_alive(version.pid))
        gate.write_text("go\n")
        await eventually(lambda: not is_alive(info.pid))
        home.client = home.new_client()
        assert code_of(await home.client.wait("orphan")) == 42
        bury()

    run(work)


def test_a_task_whose_end_nobody_saw_is_unknown_not_well() -> None:
    async def work(home: Home) -> None:
        become_subreaper()
        info = await home.client.start(home.shell("unseen", FOREVER))
        version = await home.client.connect()
        await home.client.close()
        os.kill(version.pid, signal.SIGKILL)
        await eventually(lambda: not is_alive(version.pid))
        os.kill(info.pid, signal.SIGKILL)
        await eventually(lambda: not is_alive(info.pid))
        bury()
        home.client = home.new_client()
        end = (await home.client.wait("unseen")).exit
        assert end is not None
        assert (end.code, end.signal) == (None, None)
        assert "not known" in end.message

    run(work)


def test_a_stop_goes_on_through_the_kill_of_taskd() -> None:
    async def work(home: Home) -> None:
        become_subreaper()
        await home.client.start(home.shell("stubborn", f"trap '' TERM; echo armed; {FOREVER}"))
        await eventually(lambda: "armed" in home.log("stubborn"))
        version = await home.client.connect()
        os.kill(version.pid, signal.SIGKILL)
        end = (await home.client.stop("stubborn", 0.2)).exit
        assert end is not None
        assert end.signal == signal.SIGKILL
        bury()

    run(work)


def test_background_processes_of_an_adopted_task_end_with_it() -> None:
    async def work(home: Home) -> None:
        become_subreaper()
        gate = home.root / "gate"
        os.mkfifo(gate)
        script = f"setsid sleep 1000 & read word <{gate}; setsid sleep 1000 & exit 6"
        await home.client.start(home.shell("family", script))
        version = await home.client.connect()
        os.kill(version.pid, signal.SIGKILL)
        await eventually(lambda: not is_alive(version.pid))
        await home.client.connect()
        gate.write_text("go\n")
        assert code_of(await home.client.wait("family")) == 6
        taskd = (await home.client.connect()).pid
        assert home.processes() == [taskd]
        bury()

    run(work)


def test_a_newer_taskd_takes_over_in_place_while_tasks_write() -> None:
    async def work(home: Home) -> None:
        for code in range(TASKS):
            await home.client.start(home.shell(f"t{code}", counting(code)))
        version = await home.client.connect()
        for _ in range(5):
            await home.client._request("reexec", executable=sys.executable, main=str(MAIN_FILE))
            assert (await home.client.connect()).pid == version.pid
            assert (await home.client.inspect("t1")).pid > 0
        await expect_all_kept(home)
        descriptors = len(os.listdir(f"/proc/{version.pid}/fd"))
        assert descriptors < 15, "no descriptor of an ended task is left"

    run(work)


def test_a_running_grace_is_not_prolonged_by_an_upgrade() -> None:
    async def work(home: Home) -> None:
        await home.client.start(home.shell("stubborn", f"trap '' TERM; echo armed; {FOREVER}"))
        await eventually(lambda: "armed" in home.log("stubborn"))
        began = time.monotonic()
        stopping = asyncio.ensure_future(home.client.stop("stubborn", 1.0))
        await home.client.inspect("stubborn")
        await home.client._request("reexec", executable=sys.executable, main=str(MAIN_FILE))
        end = (await stopping).exit
        assert end is not None
        assert end.signal == signal.SIGKILL
        assert 1.0 <= time.monotonic() - began < 1.9

    run(work)


def test_nothing_of_taskd_leaks_into_tasks_that_start_after_an_upgrade() -> None:
    async def work(home: Home) -> None:
        await home.client.start(home.shell("before", FOREVER))
        script = "ls /proc/self/fd | wc -l; ulimit -S -n; cat /proc/self/oom_score_adj"
        for name in ("first", "second"):
            await home.client.start(home.shell(name, script))
            await home.client.wait(name)
            await home.client._request("reexec", executable=sys.executable, main=str(MAIN_FILE))
        assert home.log("first").split("\n")[0] == "4"
        assert home.log("first") == home.log("second")

    run(work)


def test_a_taskd_of_another_build_is_upgraded_by_the_client(tmp_path: Path) -> None:
    older = tmp_path / "services" / "agent" / "taskd"
    older.mkdir(parents=True)
    for path in MAIN_FILE.parent.glob("*.py"):
        (older / path.name).write_text(path.read_text())
    (older / "wire.py").write_text(MAIN_FILE.with_name("wire.py").read_text() + "# an older one\n")
    for package in (older.parent, older.parent.parent):
        (package / "__init__.py").write_text("")

    async def work(home: Home) -> None:
        await home.client.start(home.shell("kept", FOREVER))
        new = await home.client.connect()
        await home.client._request("reexec", executable=sys.executable, main=str(older / "__main__.py"))
        await home.client.inspect("kept")
        assert home.client.version is not None
        await home.client.close()
        home.client = home.new_client()
        upgraded = await home.client.connect()
        assert (upgraded.pid, upgraded.build) == (new.pid, new.build)
        log = (home.root / "taskd.log").read_text()
        assert log.count("- reexec") == 2
        assert (await home.client.inspect("kept")).exit is None

    run(work)


def test_after_a_restart_of_the_machine_tasks_are_known_to_have_ended() -> None:
    async def work(home: Home) -> None:
        await home.client.start(home.shell("old", "exit 0"))
        await home.client.wait("old")
        await end_taskd(home)
        directory = home.root / "tasks" / "old"
        (directory / "exit.json").unlink()
        for name in ("stdout.fifo", "stderr.fifo"):
            os.mkfifo(directory / name)
        born = json.loads((directory / "pid.json").read_text())
        # The process of this number is alive today, and a stranger.
        born |= {"boot": "another", "pid": os.getpid()}
        (directory / "pid.json").write_text(json.dumps(born))
        home.client = home.new_client()
        end = (await home.client.wait("old")).exit
        assert end is not None
        assert end.code is None
        assert "restarted" in end.message

    run(work)


def test_a_start_that_nobody_was_told_of_is_undone() -> None:
    async def work(home: Home) -> None:
        become_subreaper()
        info = await home.client.start(home.shell("half", FOREVER))
        await home.client.start(home.shell("damaged", "exit 0"))
        await home.client.wait("damaged")
        version = await home.client.connect()
        await home.client.close()
        os.kill(version.pid, signal.SIGKILL)
        await eventually(lambda: not is_alive(version.pid))
        (home.root / "tasks" / "half" / "pid.json").unlink()
        (home.root / "tasks" / "damaged" / "spec.json").unlink()
        (home.root / "tasks" / "empty").mkdir()
        home.client = home.new_client()
        assert await home.client.list_tasks() == []
        await eventually(lambda: not is_alive(info.pid))
        bury()

    run(work)


def test_an_end_that_could_not_be_written_and_was_then_lost_is_unknown() -> None:
    async def work(home: Home) -> None:
        await home.client.start(home.shell("lost", "echo said; exit 0"))
        await home.client.wait("lost")
        await end_taskd(home)
        (home.root / "tasks" / "lost" / "exit.json").unlink()
        home.client = home.new_client()
        end = (await home.client.wait("lost")).exit
        assert end is not None
        assert (end.code, end.signal) == (None, None)
        assert home.log("lost") == "said"

    run(work)


async def end_taskd(home: Home) -> None:
    """End taskd politely, and the client with it."""
    version = await home.client.connect()
    await home.client.quit_when_empty()
    await home.client.close()
    await eventually(lambda: not is_alive(version.pid))


def bury() -> None:
    """Reap the orphans that came to this process as the subreaper."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return
