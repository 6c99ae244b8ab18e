"""taskd of an ordinary user: the same promises but for the limits, and that is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from services.agent.taskd.records import User
from tests.support.running import eventually
from tests.support.taskd_home import Home, ended, interpreter_for, run

NOBODY = 65534
FOREVER = "while :; do sleep 1; done"
INTERPRETER = interpreter_for(NOBODY) if os.geteuid() == 0 else ""
readable_by_all = all(parent.stat().st_mode & 0o005 == 0o005 for parent in Path(__file__).resolve().parents)
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can"),
    pytest.mark.skipif(not readable_by_all, reason="another user cannot read the sources here"),
    pytest.mark.skipif(not INTERPRETER, reason="another user cannot run a Python here"),
]


def test_what_is_not_enforced_is_told() -> None:
    async def work(home: Home) -> None:
        version = await home.client.connect()
        assert version.kill_by == "process-group"
        assert version.unenforced == ("cpu", "memory", "pids")

    run(work, user=NOBODY)


def test_codes_signals_and_logs_are_kept() -> None:
    async def work(home: Home) -> None:
        info = await ended(home, home.shell("code", "id -u; echo oops >&2; exit 9"))
        assert info.exit is not None
        assert info.exit.code == 9
        assert home.log("code").split("\n") == [str(NOBODY), "oops"]
        info = await ended(home, home.shell("signal", "kill -SEGV $$"))
        assert info.exit is not None
        assert info.exit.signal == signal.SIGSEGV

    run(work, user=NOBODY)


def test_background_processes_end_with_their_task_and_spare_the_others() -> None:
    async def work(home: Home) -> None:
        other = await home.client.start(home.shell("other", FOREVER))
        # One has left the session, one has hidden its environment.
        script = (
            "setsid sleep 1000 & env -i sleep 1000 & setsid sh -c 'setsid sleep 1000 & sleep 1000' & echo grown; exit 3"
        )
        info = await ended(home, home.shell("family", script))
        assert info.exit is not None
        assert info.exit.code == 3
        assert sleepers() == []
        assert (await home.client.inspect("other")).pid == other.pid
        assert (await home.client.inspect("other")).exit is None

    run(work, user=NOBODY)


def test_a_stubborn_task_is_killed_with_all_its_children() -> None:
    async def work(home: Home) -> None:
        script = f"trap '' TERM; setsid sleep 1000 & sleep 1000 & echo armed; {FOREVER}"
        await home.client.start(home.shell("stubborn", script))
        await eventually(lambda: "armed" in home.log("stubborn"))
        info = await home.client.stop("stubborn", 0.1)
        assert info.exit is not None
        assert info.exit.signal == signal.SIGKILL
        assert sleepers() == []

    run(work, user=NOBODY)


def test_memory_is_limited_for_each_process_at_least() -> None:
    async def work(home: Home) -> None:
        script = "try:\n  x = b'x' * (256 << 20)\nexcept MemoryError: print('refused')"
        await ended(home, home.spec("greedy", INTERPRETER, "-S", "-c", script)._replace(memory_bytes=64 << 20))
        assert home.log("greedy") == "refused"

    run(work, user=NOBODY)


def test_another_user_cannot_be_had() -> None:
    async def work(home: Home) -> None:
        info = await ended(home, home.shell("root", "id -u")._replace(user=User(0, 0)))
        assert info.exit is not None
        assert info.exit.code != 0
        assert "0" not in home.log("root").split("\n")

    run(work, user=NOBODY)


def sleepers() -> list[int]:
    """Return the living processes of this file's tasks that sleep for long."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if command == b"sleep\x001000\0" and Path(f"/proc/{entry}").stat().st_uid == NOBODY:
                found.append(int(entry))
    return found
