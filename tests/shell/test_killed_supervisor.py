"""A supervisor that is killed: its children stop politely by themselves, and the next one waits for them and is the same node."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.kit.bus.identity import load_identity
from tests.support.fake_supervisor import __file__ as fake_supervisor
from tests.support.ports import free_remote_api
from tests.support.swarm import clean_environment, processes_of, wait_until


@contextmanager
def supervisor(state_dir: Path, listen: str) -> Iterator[subprocess.Popen[str]]:
    """Run one until it says that it is ready; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, str(fake_supervisor), str(state_dir), listen],
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said: list[str] = []
        while True:
            assert select.select([process.stderr], [], [], 20)[0], said
            said.append(process.stderr.readline())
            assert said[-1], said
            if "node is ready" in said[-1]:
                break
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_children_of_a_killed_supervisor_stop_politely(tmp_path: Path) -> None:
    with supervisor(tmp_path, free_remote_api()) as process:
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not processes_of(tmp_path), "no process is left")
    assert {path.name for path in tmp_path.glob("stopped-*")} == {
        f"stopped-{child}" for child in ("raft", "dispatcher", "gateway", "agent")
    }


def test_a_supervisor_started_right_after_one_was_killed_is_the_same_node(tmp_path: Path) -> None:
    listen = free_remote_api()
    with supervisor(tmp_path, listen) as process:
        before = load_identity(tmp_path / "certificates").node_id
        os.kill(process.pid, signal.SIGKILL)
        with supervisor(tmp_path, listen) as again:
            assert load_identity(tmp_path / "certificates").node_id == before
            again.send_signal(signal.SIGINT)
            assert again.wait(15) == 0
    wait_until(lambda: not processes_of(tmp_path), "no process is left")
