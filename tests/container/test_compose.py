"""Dockerfile and compose.yaml on a real engine: the image is built, five nodes find each other, one is lost and comes back, more are added."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engine import DockerEngine, docker_engine, missing
from tests.support.ports import free_remote_api
from tests.support.python_image import BASE_IMAGE, make_base_image
from tests.support.swarm import wait_until

ROOT = Path(__file__).parents[2]
COMMAND_S = 240
JOIN_S = 90.0
pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def compose_command() -> list[str]:
    """Return the command of Compose, the plugin or the older program; none where there is neither."""
    if (
        shutil.which("docker")
        and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    ):
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


class Cluster:
    """The containers of compose.yaml."""

    def __init__(self, engine: DockerEngine) -> None:
        self.engine = engine
        self.port = int(free_remote_api().rpartition(":")[2])
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(engine.directory),
            "DOCKER_HOST": f"unix://{engine.socket}",
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
            "SWARM_BASE": BASE_IMAGE,
            "SWARM_PUBLISH": f"127.0.0.1:{self.port}:8080",
        }

    def compose(self, *words: str) -> str:
        """Run compose and return what it printed."""
        command = [*compose_command(), "-p", "swb", "-f", str(ROOT / "compose.yaml"), *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def swarmctl(self, *words: str) -> str:
        """Run swarmctl on the first manager; empty while it cannot answer."""
        done = subprocess.run(
            ["docker", "exec", self.container("manager1"), "swarmctl", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout if done.returncode == 0 else ""

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "-q", service).split()[0]

    def ready(self) -> dict[str, str]:
        """Return the parts that READY nodes have, by hostname."""
        rows = self.swarmctl("node", "ls", "--format", "{{.Hostname}}|{{.Status}}|{{.role}}").split()
        return {name: role for name, state, role in (row.split("|") for row in rows) if state == "Ready"}

    def answers(self) -> bool:
        """Tell whether the published port of this machine is answered by a task."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    reason = missing() or ("" if compose_command() else "there is no docker compose (Debian: docker-compose)")
    if reason:
        pytest.skip(reason)
    with docker_engine() as engine:
        make_base_image(engine)
        made = Cluster(engine)
        try:
            yield made
        finally:
            made.compose("down", "-v", "-t", "1", "--remove-orphans")


def test_a_cluster_boots_survives_a_loss_and_grows(cluster: Cluster) -> None:
    cluster.compose("up", "-d", "--build")
    wait_until(lambda: len(cluster.ready()) == 5, "five nodes are ready", JOIN_S)
    roles = cluster.ready()
    assert {name for name, role in roles.items() if role == "manager"} == {"manager1", "manager2", "manager3"}
    assert "unknown" not in cluster.swarmctl("version")

    words = ["--name", "web", "--replicas", "4", "--publish", "8080:80", "--driver", "process", "--quiet"]
    assert cluster.swarmctl("service", "create", *words, "--", "python3", "-m", "http.server", "{{.Task.Port}}")
    wait_until(cluster.answers, "the published port is answered")

    lost = cluster.container("manager2")
    cluster.engine.cli("kill", lost)
    wait_until(lambda: "manager2" not in cluster.ready() and bool(cluster.ready()), "the loss is noticed", JOIN_S)
    wait_until(cluster.answers, "the published port is answered without it")
    assert cluster.swarmctl("service", "scale", "--quiet", "web=6"), "two managers of three can write"
    cluster.engine.cli("start", lost)
    wait_until(lambda: cluster.ready().get("manager2") == "manager", "it is back", JOIN_S)

    cluster.compose("up", "-d", "--no-build", "--scale", "worker=3")
    wait_until(lambda: len(cluster.ready()) == 6, "the sixth node is ready", JOIN_S)
