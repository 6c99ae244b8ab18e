"""Addresses: whatever happens to services, tasks and leaders, none is held twice and none is lost."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.dispatcher.core.loops.allocate import Allocate
from services.kit.model.ids import NetworkId
from services.kit.model.objects import Service, Task
from services.kit.model.specs import NetworkAttachmentConfig, ServiceSpec
from services.kit.model.states import TaskState
from services.kit.state.addresses import held_by, pairs
from services.kit.state.transaction import remove
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace

NAMES = ("a", "b")
NETWORKS = ("small", "wide")
ACTS = ("create", "scale", "image", "move", "remove", "fail", "leader", "time", "delete_task")
stories = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 7), st.integers(0, 3)), max_size=20)
"""What, a number that decides about what exactly, and how many rounds the swarm gets afterwards."""


def spec_of(name: str, number: int, image: str = "v1") -> ServiceSpec:
    chosen = NETWORKS[: number % 3] or NETWORKS[1:]
    networks = tuple(NetworkAttachmentConfig(target=NetworkId(each)) for each in chosen)
    spec = a_service_spec(name, replicas=number % 5, image=image)
    return _replace(spec, task=_replace(spec.task, networks=networks))


def act(swarm: Swarm, what: str, number: int) -> None:
    """Let one thing happen, if it can."""
    name = NAMES[number % 2]
    if what == "leader":
        swarm.become_leader()
    elif what == "time":
        swarm.now += 30
    elif swarm.state.service_named(name) is not None:
        change(swarm, what, name, number)
    elif what == "create":
        swarm.create_service(spec_of(name, number))


def change(swarm: Swarm, what: str, name: str, number: int) -> None:
    """Let something happen to a service that is there."""
    one = swarm.running(name)[:1]
    match what:
        case "scale":
            swarm.scale(name, number % 6)
        case "image":
            swarm.set_image(name, f"v{number}")
        case "move":
            swarm.update_service(name, spec_of(name, number, "moved"))
        case "remove":
            swarm.remove_service(name)
        case "fail":
            for task in one:
                swarm.end_task(task, TaskState.FAILED)
        case "delete_task":
            for task in one:
                swarm.write(remove(task))
        case _:
            pass


def holders(swarm: Swarm) -> list[Service | Task]:
    """Return everything that may hold addresses."""
    found: list[Service | Task] = list(swarm.state.services.values())
    return found + list(swarm.state.tasks.values())


def check(swarm: Swarm) -> None:
    """Compare what is held with a count of it all."""
    held = Counter(pair for holder in holders(swarm) for pair in pairs(held_by(holder)))
    assert max(held.values(), default=1) == 1, "an address is held twice"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories)
def test_no_address_is_held_twice_and_none_is_lost(story: list[tuple[str, int, int]]) -> None:
    swarm = Swarm(2)
    swarm.create_network("small", "10.9.0.0/28")
    swarm.create_network("wide")
    for what, number, rounds in story:
        act(swarm, what, number)
        swarm.settle_for(rounds)
        check(swarm)
    swarm.pass_time(3600)
    check(swarm)
    for name in NAMES:
        if swarm.state.service_named(name) is not None:
            assert len(swarm.running(name)) == swarm.service(name).spec.mode.replicas  # type: ignore[union-attr]
    allocate = next(loop for loop in swarm.planning._loops if isinstance(loop, Allocate))
    allocate.leases.check()
    for network, size in (("small", 13), ("wide", 253)):
        used = sum(each == f"id-{network}" for holder in holders(swarm) for each, _ in pairs(held_by(holder)))
        assert allocate.leases.free(NetworkId(f"id-{network}")) == size - used, "an address is lost"
