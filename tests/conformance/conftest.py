"""The drivers under test; a driver that cannot run here is skipped with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.rigs import RIGS, Bench, OciRig
from tests.support import rootfs
from tests.support.docker_engine import DockerEngine, docker_engine, missing
from tests.support.running import run_async


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    """Run one Docker engine for all tests that want one."""
    reason = missing()
    if reason:
        pytest.skip(f"no Docker engine: {reason}")
    with docker_engine() as running:
        yield running


@pytest.fixture(
    params=[pytest.param(rig, id=rig.name, marks=[pytest.mark.docker] if rig.name == "docker" else []) for rig in RIGS]
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Give a node for each driver, and clean it."""
    if request.param is OciRig and (reason := rootfs.missing()):
        pytest.skip(f"no containers: {reason}")
    rig = request.param()
    socket = str(tmp_path / "no-docker.sock")
    if rig.name == "docker":
        socket = request.getfixturevalue("engine").socket
    made = Bench(rig, tmp_path, socket)
    yield made
    run_async(made.clean())
