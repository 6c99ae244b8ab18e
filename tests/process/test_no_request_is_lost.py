"""Under load on every node nothing fails while the swarm changes: updates, scaling, drains, nodes that stop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.client.build import service_spec
from services.kit.model.ids import NodeId
from services.kit.model.specs import HealthCheck, ServiceSpec, UpdateConfig
from services.kit.model.states import Availability, TaskState, UpdateOrder
from tests.support.http_load import HttpLoad
from tests.support.plane_home import free_port
from tests.support.ports import free_remote_api
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = pytest.mark.process

TASK = Path(__file__).parents[1] / "support" / "web_task.py"
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
REPLICAS = 4
_replace = msgspec.structs.replace


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with Swarm(tmp_path) as swarm:
        first = swarm.node("n1")
        first.start()
        for name, address in (("n2", ADDRESSES[1]), ("n3", ADDRESSES[2])):
            node = swarm.joining(name)
            node.remote_api = free_remote_api(address)
            node.start()
        yield swarm


def web(port: int, version: str, order: UpdateOrder = UpdateOrder.START_FIRST) -> ServiceSpec:
    """Return a service whose answers are its version."""
    update = UpdateConfig(parallelism=2, monitor_s=0.1, order=order)
    command = (sys.executable, str(TASK), "{{.Task.Port}}", version)
    spec = service_spec("web", command=command, ports=[f"{port}:80"], replicas=REPLICAS, update=update)
    check = HealthCheck(test=("TCP", "80"), interval_s=0.2, start_interval_s=0.05, start_period_s=5.0)
    container = _replace(spec.task.container, health_check=check)
    return _replace(spec, task=_replace(spec.task, container=container))


def serving(node: SwarmNode, spec: ServiceSpec) -> None:
    """Create the service; return once it runs and every node answers."""
    with node.client() as client:
        client.services.create(spec)
        client.services.wait("web", timeout_s=30.0)


def changed(node: SwarmNode, spec: ServiceSpec) -> None:
    """Update the service and wait until it has converged."""
    with node.client() as client:
        client.services.update("web", lambda _: spec)
        client.services.wait("web", timeout_s=40.0)


def keeps_coming(load: HttpLoad, count: int = 50) -> None:
    """Wait for so many more answers."""
    goal = load.answered + count
    wait_until(lambda: load.answered >= goal or load.failures, f"{count} more requests are answered")


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_rolling_updates_lose_no_request(swarm: Swarm, order: UpdateOrder) -> None:
    roll(swarm, order, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_rolling_updates_lose_no_request(swarm: Swarm) -> None:
    roll(swarm, UpdateOrder.START_FIRST, 100)


def roll(swarm: Swarm, order: UpdateOrder, times: int) -> None:
    first, port = swarm.nodes["n1"], free_port()
    serving(first, web(port, "v0", order))
    with HttpLoad(ADDRESSES, port) as load:
        keeps_coming(load)
        for number in range(1, times + 1):
            changed(first, web(port, f"v{number}", order))
        keeps_coming(load)
    assert load.failures == []
    assert set(load.answers) == {f"v{number}" for number in range(times + 1)}
    assert load.slowest_s < 3.0


def test_scaling_down_and_up_loses_no_request(swarm: Swarm) -> None:
    first, port = swarm.nodes["n1"], free_port()
    serving(first, web(port, "v0"))
    with HttpLoad(ADDRESSES, port) as load, first.client() as client:
        keeps_coming(load)
        for replicas in (1, 6, 2, REPLICAS):
            client.services.scale("web", replicas)
            client.services.wait("web", timeout_s=30.0)
            keeps_coming(load)
    assert load.failures == []


def test_draining_a_node_loses_no_request(swarm: Swarm) -> None:
    first, port = swarm.nodes["n1"], free_port()
    serving(first, web(port, "v0"))
    with HttpLoad(ADDRESSES, port) as load, first.client() as client:
        keeps_coming(load)
        node = next(each.id for each in client.nodes.list() if each.description.hostname == "n2")
        client.nodes.set_availability(node, Availability.DRAIN)
        wait_until(lambda: _runs_elsewhere(first, node), "the node has no task and the others have all")
        keeps_coming(load)
    assert load.failures == []


def _runs_elsewhere(first: SwarmNode, node: NodeId) -> bool:
    with first.client() as client:
        running = [task for task in client.services.tasks("web") if task.status.state is TaskState.RUNNING]
    return len(running) >= REPLICAS and all(task.node_id != node for task in running)
