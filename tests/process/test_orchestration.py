"""What users do with a running node: secrets that rotate, jobs, services that wait for others, and asking why."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from services.client.blocking import BlockingClient
from services.kit.messages.inquiry import Finding
from services.kit.model.specs import Annotations, ClusterSpec, SecretSpec
from services.kit.model.states import NodeState, TaskState, UpdateState
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def lines(node: SwarmNode, service: str) -> list[str]:
    return node.swarmctl("service", "logs", "--raw", service).splitlines()


def create(node: SwarmNode, name: str, *flags: str, script: str) -> None:
    node.swarmctl(
        "service", "create", "--name", name, "--driver", "process", "--detach", *flags, "--", "sh", "-c", script
    )


def running(client: BlockingClient, service: str) -> int:
    return sum(
        task.status.state is TaskState.RUNNING and task.desired_state is TaskState.RUNNING
        for task in client.services.tasks(service)
    )


def update_state(client: BlockingClient, service: str) -> UpdateState | None:
    status = client.services.get(service).update_status
    return None if status is None else status.state


def test_a_secret_reaches_its_task_and_its_next_version_rolls_over(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        node = swarm.start("n1")
        with node.client() as client:
            client.secrets.create(SecretSpec(annotations=Annotations(name="token"), data=b"first\n"))
            script = "cat $SWARMBUS_SECRETS_DIR/token; exec sleep 1000"
            create(node, "web", "--secret", "token", "--update-monitor", "0s", script=script)
            wait_until(lambda: running(client, "web") == 1, "the task runs")
            rotation = client.secrets.rotate("token", b"second\n")
            assert rotation.services == ("web",)
            wait_until(lambda: update_state(client, "web") is UpdateState.COMPLETED, "the rotation is rolled out")
            wait_until(lambda: running(client, "web") == 1, "the new task runs")
            (current,) = [t for t in client.services.tasks("web") if t.status.state is TaskState.RUNNING]
            assert current.spec_version == 2
            wait_until(lambda: {"first", "second"} <= set(lines(node, "web")), "both versions were read")
            assert "is used by service web" in node.swarmctl("secret", "rm", "token", code=2)
            history = node.swarmctl("history", "web")
            assert "control.rotate_secret" in history
            assert "user" in history


def test_a_service_waits_for_a_job_and_says_so_until_it_is_complete(tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with Swarm(tmp_path) as swarm:
        node = swarm.start("n1")
        with node.client() as client:
            create(node, "web", "--depends-on", "migrate:completed_successfully", script="exec sleep 1000")
            wait_until(lambda: bool(client.why("web").findings), "it says what it waits for")
            assert client.why("web").findings[0].waits_for == "service migrate to exist"
            script = f"while ! test -e {gate}; do sleep 0.05; done; echo done"
            create(node, "migrate", "--mode", "replicated-job", script=script)

            def waits() -> tuple[Finding, ...]:
                return client.why("web").findings

            wait_until(
                lambda: [f.waits_for for f in waits()] == ["service migrate to complete"], "it waits for the job"
            )
            assert "service migrate to complete" in node.swarmctl("why", "web")
            gate.touch()
            wait_until(lambda: running(client, "web") == 1, "it runs once the job is complete")
            (status,) = client.services.statuses((client.services.get("migrate").id,))
            assert (status.completed, status.running) == (1, 0)
            assert "is as it should be" in node.swarmctl("why", "web")


def test_with_a_heartbeat_of_half_a_second_a_dead_worker_is_known_in_two(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        manager = swarm.start("m1")
        worker = swarm.join("w1")
        with manager.client() as client:

            def faster(spec: ClusterSpec) -> ClusterSpec:
                return replace(spec, dispatcher=replace(spec.dispatcher, heartbeat_period_s=0.5))

            client.clusters.update("default", faster)
            worker.stop()
            worker.start()  # registers anew, with the new period
            create(
                manager, "web", "--constraint", "node.hostname!=nowhere", "--replicas", "4", script="exec sleep 1000"
            )
            wait_until(lambda: running(client, "web") == 4, "all tasks run")
            worker.kill()

            def moved() -> bool:
                nodes = {node.description.hostname: node for node in client.nodes.list()}
                alive = nodes["m1"].id
                tasks = client.services.tasks("web")
                here = [t for t in tasks if t.status.state is TaskState.RUNNING and t.node_id == alive]
                return nodes["w1"].status.state is NodeState.DOWN and len(here) == 4

            wait_until(moved, "all tasks run on the other node", 8.0)
