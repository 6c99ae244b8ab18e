"""An agent's volumes with a driver that is a real program: stage, publish, unpublish, unstage, also across a restart of the agent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from services.agent.shell.volumes import Volumes
from services.kit.errors import DeadlineExceeded, FailedPrecondition, NotFound
from services.kit.messages.session import AssignedVolume, Assignments
from services.kit.model.ids import VolumeId
from services.kit.model.volumes import VolumeDriverNode, VolumeSecret
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.tasks import TaskOwner
from services.kit.runtime.volume_driver import StepRequest, VolumeDriver, driver_names, find_driver
from tests.support.running import eventually, run_async

V = VolumeId("v")
DRIVER = """#!/bin/sh
request=$(cat)
echo "$1 $request" >> {log}
case $1 in
  info) echo '{{"stages": true, "node_id": "their-node"}}' ;;
  publish) [ ! -e {log}.broken ] || {{ echo "first line" >&2; echo "no room" >&2; exit 1; }} ;;
esac
"""


def install(directory: Path, name: str = "shared", script: str = DRIVER) -> Path:
    """Write a driver and return its log."""
    directory.mkdir(exist_ok=True)
    log = directory / f".{name}.log"
    program = directory / name
    program.write_text(script.format(log=log))
    program.chmod(0o755)
    return log


def steps_of(log: Path) -> list[str]:
    """Return the steps that the driver was asked for, without its introductions."""
    steps = [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
    return [step for step in steps if step != "info"]


def volumes(tmp_path: Path, owner: TaskOwner, used: set[VolumeId]) -> Volumes:
    return Volumes(
        clock=SystemClock(),
        owner=owner,
        drivers_dir=tmp_path / "drivers",
        directory=tmp_path / "cluster-volumes",
        node_id="our-node",
        used=lambda: used,
        secrets=lambda: {"s": b"word"},
    )


def given() -> Assignments:
    secret = VolumeSecret(key="password", secret_id="s")  # type: ignore[arg-type]
    volume = AssignedVolume(id=V, driver="shared", volume_id="their-v", secrets=(secret,))
    return Assignments(full=True, applies_to=0, results_in=1, volumes=(volume,))


def test_a_volume_comes_and_goes_and_its_secrets_stay_off_the_disk(tmp_path: Path) -> None:
    log = install(tmp_path / "drivers")
    used: set[VolumeId] = {V}

    async def scenario() -> None:
        async with TaskOwner("test") as owner:
            held = volumes(tmp_path, owner, used)
            owner.spawn("run", held.run())
            assert await held.look_at_drivers()
            assert held.drivers == (VolumeDriverNode(name="shared", node_id="their-node"),)
            held.apply(given())
            await eventually(lambda: held.path(V))
            assert held.path(V) == str(tmp_path / "cluster-volumes" / "v" / "published")
            request = json.loads(log.read_text().splitlines()[-1].partition(" ")[2])
            assert request["secrets"] == {"password": "d29yZA=="}
            assert request["node_id"] == "their-node"
            assert "d29yZA" not in (tmp_path / "cluster-volumes" / "v" / "volume.json").read_text()

            held.apply(Assignments(full=False, applies_to=1, results_in=2, removed_volumes=(V,)))
            await asyncio.sleep(0)
            assert steps_of(log) == ["stage", "publish"], "a task still has it"
            used.clear()
            held.look()
            await eventually(held.reports)
            assert steps_of(log) == ["stage", "publish", "unpublish", "unstage"]
            assert not (tmp_path / "cluster-volumes" / "v").exists()

    run_async(scenario())


def test_an_agent_that_restarts_takes_down_what_it_is_not_given_any_more(tmp_path: Path) -> None:
    log = install(tmp_path / "drivers")

    async def scenario() -> None:
        async with TaskOwner("first") as owner:
            held = volumes(tmp_path, owner, set())
            owner.spawn("run", held.run())
            held.apply(given())
            await eventually(lambda: held.path(V))
        async with TaskOwner("second") as owner:
            again = volumes(tmp_path, owner, set())
            again.adopt()
            owner.spawn("run", again.run())
            again.apply(Assignments(full=True, applies_to=0, results_in=1))
            await eventually(again.reports)
            assert steps_of(log)[-2:] == ["unpublish", "unstage"]

    run_async(scenario())


def test_a_driver_that_fails_is_asked_again_and_says_why(tmp_path: Path) -> None:
    log = install(tmp_path / "drivers")
    broken = Path(f"{log}.broken")
    broken.touch()

    async def scenario() -> None:
        async with TaskOwner("test") as owner:
            held = volumes(tmp_path, owner, set())
            owner.spawn("run", held.run())
            held.apply(given())
            await eventually(lambda: "no room" in held.trouble(V))
            broken.unlink()
            await eventually(lambda: held.path(V))

    run_async(scenario())


def test_drivers_that_misbehave(tmp_path: Path) -> None:
    drivers = tmp_path / "drivers"
    install(drivers, "babbler", "#!/bin/sh\necho nonsense\n")
    install(drivers, "sleeper", "#!/bin/sh\nsleep 1000000\n")
    (drivers / "no-program").write_text("")

    async def scenario() -> None:
        assert driver_names(drivers) == ("babbler", "sleeper")
        with pytest.raises(FailedPrecondition, match="no answer"):
            await find_driver(drivers, "babbler").step("create", StepRequest())
        with pytest.raises(DeadlineExceeded):
            await VolumeDriver(drivers / "sleeper", step_s=0.2).step("create", StepRequest())
        for name in ("missing", "../drivers/babbler", "no-program"):
            with pytest.raises(NotFound):
                find_driver(drivers, name)

    run_async(scenario())
