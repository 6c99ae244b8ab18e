"""An agent whose disk fills up and has room again: nothing is lost, nothing is reported that was not kept, no task is failed for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.agent.taskd import stop_all
from services.kit.model.specs import ContainerSpec
from services.kit.model.states import TaskState
from tests.support.agents import make_spec, make_task, one_world, task_id
from tests.support.running import eventually, run_async

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")]
DISK_BYTES = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a state directory on a disk of 4 MiB."""
    state_dir = tmp_path / "small"
    state_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(state_dir)], check=True)
    (state_dir / "run").mkdir(mode=0o700)
    try:
        yield state_dir
    finally:
        stop_all.main(["", str(state_dir / "worker"), str(state_dir / "run" / "taskd.sock"), "0"])
        subprocess.run(["umount", "-l", str(state_dir)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    return ballast


def test_a_full_disk_delays_and_loses_nothing(disk: Path) -> None:
    async def scenario() -> None:
        spec = make_spec("process", container=ContainerSpec(command=("/bin/sh", "-c", "sleep 1000000")))
        async with one_world(disk) as world, world.agent(drivers=("process",)):
            dispatcher = world.dispatcher
            dispatcher.assign(make_task(1), make_task(2), specs=(spec,))
            for number in (1, 2):
                await dispatcher.saw(task_id(number), TaskState.RUNNING)
            ballast = fill(disk)
            dispatcher.assign(make_task(1, desired=TaskState.SHUTDOWN), make_task(3))
            dispatcher.assign(removed=(task_id(2),))
            reports = len(dispatcher.batches)
            beats = dispatcher.beats
            dispatcher.drop_session()
            await eventually(lambda: dispatcher.beats > beats and len(dispatcher.registrations) == 2)
            told = {update.task_id for batch in dispatcher.batches[reports:] for update in batch.updates}
            assert dispatcher.state(task_id(1)) is TaskState.RUNNING, f"told before it was kept: {told}"
            ballast.unlink()
            await dispatcher.saw(task_id(1), TaskState.SHUTDOWN)
            await dispatcher.saw(task_id(3), TaskState.RUNNING)
            await eventually(lambda: not (disk / "worker" / "tasks" / task_id(2)).exists())
        async with world.agent(drivers=("process",)) as app:
            await eventually(lambda: [each["task"] for each in app.tasks.describe()] == [task_id(1), task_id(3)])
            assert [each["state"] for each in app.tasks.describe()] == ["SHUTDOWN", "RUNNING"]

    run_async(scenario(), timeout_s=50.0)
