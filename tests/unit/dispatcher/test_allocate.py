"""Published ports: dealt, kept, given back; tasks wait until their service has its ports."""

from __future__ import annotations

import msgspec

from services.dispatcher.core.loops.allocate import Allocate
from services.dispatcher.core.planning import Planning
from services.dispatcher.core.published import PORT_FIRST, PORT_LAST
from services.kit.model.objects import Endpoint
from services.kit.model.specs import EndpointSpec, PortConfig, ServiceSpec
from services.kit.model.states import Protocol, PublishMode, TaskState
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace


def spec_with(name: str, *ports: PortConfig) -> ServiceSpec:
    return a_service_spec(name, endpoint=EndpointSpec(ports=ports))


def numbers(swarm: Swarm, name: str = "web") -> list[int]:
    endpoint = swarm.service(name).endpoint
    assert endpoint is not None
    return [port.published_port for port in endpoint.ports]


def set_ports(swarm: Swarm, *ports: PortConfig) -> None:
    swarm.update_service("web", _replace(swarm.service().spec, endpoint=EndpointSpec(ports=ports)))
    swarm.settle()


def test_ports_without_a_number_come_from_the_dynamic_range_and_are_never_dealt_twice() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("a", PortConfig(target_port=80), PortConfig(target_port=81)))
    swarm.create_service(spec_with("b", PortConfig(target_port=80)))
    swarm.settle()
    dealt = numbers(swarm, "a") + numbers(swarm, "b")
    assert dealt == [30000, 30001, 30002]


def test_a_port_that_another_service_names_is_not_dealt() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("a", PortConfig(target_port=80, published_port=30000)))
    swarm.create_service(spec_with("b", PortConfig(target_port=80)))
    swarm.create_service(spec_with("c", PortConfig(target_port=80, protocol=Protocol.UDP)))
    swarm.settle()
    assert numbers(swarm, "b") == [30001]
    assert numbers(swarm, "c")[0] >= 30000


def test_a_dealt_port_stays_with_its_config_while_others_change() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("web", PortConfig(name="x", target_port=80), PortConfig(name="y", target_port=81)))
    swarm.settle()
    set_ports(swarm, PortConfig(name="x", target_port=90), PortConfig(name="y", target_port=81))
    assert numbers(swarm)[1] == 30001
    assert numbers(swarm)[0] not in {30000, 30001}, "another target is another port"


def test_another_number_of_ports_deals_all_anew() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("web", PortConfig(target_port=80)))
    swarm.settle()
    set_ports(swarm, PortConfig(target_port=80), PortConfig(target_port=81))
    assert 30000 not in numbers(swarm)


def test_a_port_that_was_named_by_its_user_is_not_kept_as_a_dealt_one() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("web", PortConfig(target_port=80, published_port=8080)))
    swarm.settle()
    set_ports(swarm, PortConfig(target_port=80))
    assert numbers(swarm) == [30000]


def test_host_mode_ports_are_the_nodes_affair() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("web", PortConfig(target_port=80, publish_mode=PublishMode.HOST)))
    swarm.settle()
    assert len(swarm.running()) == 1
    assert swarm.service().endpoint is None, "nothing was to be allocated"


def test_tasks_wait_for_ports_that_ran_out_and_go_on_when_some_are_given_back() -> None:
    swarm = Swarm(1)
    everything = tuple(PortConfig(target_port=n) for n in range(PORT_FIRST, PORT_LAST + 1))
    swarm.create_service(spec_with("all", *everything))
    swarm.settle()
    swarm.create_service(spec_with("web", PortConfig(target_port=80)))
    swarm.settle()
    assert [task.status.state for task in swarm.tasks()] == [TaskState.NEW]
    swarm.remove_service("all")
    swarm.settle()
    assert len(swarm.running()) == 1


def test_a_new_leader_keeps_what_was_dealt() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("web", PortConfig(target_port=80)))
    swarm.settle()
    swarm.become_leader()
    swarm.settle()
    swarm.create_service(spec_with("other", PortConfig(target_port=80)))
    swarm.settle()
    assert numbers(swarm) == [30000]
    assert numbers(swarm, "other") == [30001]


def test_an_allocated_service_is_left_alone() -> None:
    swarm = Swarm(1)
    swarm.create_service(spec_with("web", PortConfig(target_port=80)))
    swarm.settle()
    service = swarm.service()
    assert service.endpoint == Endpoint(
        spec=service.spec.endpoint, ports=(PortConfig(target_port=80, published_port=30000),)
    )
    assert Planning(swarm.state, (Allocate(),)).run(swarm.now) == []
