"""The web process of a real node: the docker command against it, a real engine under it, its loss and its refusal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.model.states import TaskState
from tests.support.docker_engine import IMAGE, docker_engine, missing
from tests.support.swarm import Swarm, SwarmNode, send, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("docker") is None, reason="the docker command is not installed (docker.io)"),
]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with Swarm(tmp_path) as swarm:
        yield swarm


def start(swarm: Swarm, *options: str) -> tuple[SwarmNode, str]:
    """Start a node with a web process and return it with the address of its local door."""
    node = swarm.node("n1", *options)
    address = f"unix://{node.state_dir}.docker"
    node._options = ("--listen-http", address, *options)
    node.start()
    wait_until(lambda: docker(address, "version").returncode == 0, "the web process answers")
    return node, address


def docker(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        ["docker", "-H", address, *words], env=environment, capture_output=True, text=True, timeout=55, check=False
    )


def said(address: str, *words: str) -> str:
    done = docker(address, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_web_process_comes_back_and_leaves_nothing(swarm: Swarm) -> None:
    node, address = start(swarm)
    assert "n1" in said(address, "node", "ls")
    web = next(each for each in node.status().processes if each.process == "web")
    send(web.pid, signal.SIGKILL)
    wait_until(lambda: docker(address, "node", "ls").returncode == 0, "the web process is back")
    assert node.status().state == "ready"
    assert node.stop() == 0
    assert not Path(address.removeprefix("unix://")).exists()


def test_a_web_process_that_cannot_run_ends_alone(swarm: Swarm) -> None:
    node = swarm.start("n1", "--listen-http", "0.0.0.0:4999")
    node.wait_log("process given up")
    assert any("would be open to everybody" in line for line in node.lines)
    with node.client() as client:
        assert client.nodes.list()
    assert node.status().state == "ready"


@pytest.mark.docker
@pytest.mark.skipif(bool(missing()), reason=missing() or "an engine can be started")
def test_the_docker_command_runs_containers_on_the_swarm(swarm: Swarm) -> None:
    with docker_engine() as engine:
        node, address = start(swarm, "--engine-addr", f"unix://{engine.socket}")
        words = ["--name", "web", "--replicas", "2", "--update-monitor", "1s", "--stop-grace-period", "1s", "-e", "A=1"]
        told = said(address, "service", "create", *words, IMAGE, "sh", "-c", "echo hello from $A; sleep 1000")
        assert "converged" in told
        assert "2/2" in said(address, "service", "ls")
        assert len(engine.cli("ps", "-q").split()) == 2
        assert "hello from 1" in said(address, "service", "logs", "--raw", "web")
        assert "converged" in said(address, "service", "scale", "web=3")
        assert "converged" in said(address, "service", "update", "--env-add", "A=2", "--update-parallelism", "0", "web")
        wait_until(lambda: "hello from 2" in said(address, "service", "logs", "--raw", "web"), "the new tasks write")
        assert said(address, "service", "ps", "-f", "desired-state=running", "-q", "web").count("\n") == 3
        said(address, "service", "rm", "web")
        wait_until(lambda: not _running(node), "the tasks are gone")
        wait_until(lambda: not engine.cli("ps", "-q"), "the containers are gone")
        assert node.stop() == 0


def _running(node: SwarmNode) -> bool:
    try:
        with node.client() as client:
            return any(task.status.state <= TaskState.RUNNING for task in client.tasks.list())
    except SwarmError:
        return True
