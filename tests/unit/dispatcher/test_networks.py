"""Networks: their subnets, the addresses of services and tasks, and who may not remove them."""

from __future__ import annotations

import msgspec
import pytest

from services.dispatcher.core.control.networks import create_network, list_networks, remove_network
from services.dispatcher.core.inquiry.answers import why
from services.dispatcher.core.loops.allocate import Allocate
from services.kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from services.kit.messages.control import Filters
from services.kit.messages.networks import CreateNetworkRequest, RemoveNetworkRequest
from services.kit.model.ids import NetworkId, NodeId
from services.kit.model.network_rules import INGRESS
from services.kit.model.objects import NetworkAddresses
from services.kit.model.specs import (
    Annotations,
    DriverConfig,
    EndpointSpec,
    IpamConfig,
    NetworkAttachmentConfig,
    NetworkingConfig,
    NetworkSpec,
    Replicated,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import EndpointMode, FailureAction, TaskState, UpdateState
from services.kit.state.transaction import ConflictReason, remove, update
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace


def on(*networks: str, name: str = "web", replicas: int = 1, mode: EndpointMode = EndpointMode.VIP) -> ServiceSpec:
    attachments = tuple(NetworkAttachmentConfig(target=NetworkId(each)) for each in networks)
    spec = a_service_spec(name, replicas=replicas, endpoint=EndpointSpec(mode=mode))
    return _replace(spec, task=_replace(spec.task, networks=attachments))


def set_pools(swarm: Swarm, *pools: str, size: int = 24) -> None:
    cluster = swarm.state.cluster
    assert cluster is not None
    networking = NetworkingConfig(default_address_pools=pools, subnet_size=size)
    swarm.write(update(_replace(cluster, spec=_replace(cluster.spec, networking=networking))))


def addresses(swarm: Swarm, name: str = "web") -> list[str]:
    return [address for task in swarm.tasks(name) for each in task.networks for address in each.addresses]


def virtual(swarm: Swarm, name: str = "web") -> list[str]:
    endpoint = swarm.service(name).endpoint
    assert endpoint is not None
    return [address for each in endpoint.virtual_ips for address in each.addresses]


def refused(swarm: Swarm, spec: NetworkSpec) -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        create_network(swarm.state, CreateNetworkRequest(spec=spec), NetworkId("new"))
    return [problem.path for problem in caught.value.details.problems]


def test_a_network_without_a_subnet_gets_the_next_one_of_the_pools() -> None:
    swarm = Swarm(0)
    assert [each.subnet for each in swarm.create_network("a").ipam] == ["10.0.0.0/24"]
    assert [each.gateway for each in swarm.create_network("b").ipam] == ["10.0.1.1"]
    swarm.create_network("c", "10.0.2.0/25")
    assert [each.subnet for each in swarm.create_network("d").ipam] == ["10.0.3.0/24"]


def test_a_subnet_that_was_given_back_is_dealt_again() -> None:
    swarm = Swarm(0)
    for name in ("a", "b", "c"):
        swarm.create_network(name)
    swarm.remove_network("b")
    assert swarm.create_network("d").ipam[0].subnet == "10.0.1.0/24"


def test_pools_are_the_clusters_setting_and_may_run_out() -> None:
    swarm = Swarm(0)
    set_pools(swarm, "192.168.0.0/25", "172.30.0.0/26", size=26)
    subnets = [swarm.create_network(name).ipam[0].subnet for name in ("a", "b", "c")]
    assert subnets == ["192.168.0.0/26", "192.168.0.64/26", "172.30.0.0/26"]
    with pytest.raises(FailedPrecondition, match="no subnet is left"):
        swarm.create_network("d")


def test_no_subnet_of_a_pool_hides_a_node() -> None:
    swarm = Swarm(1)
    node = swarm.state.nodes[NodeId("n1")]
    swarm.change_node("n1", status=_replace(node.status, addr="10.0.0.7"))
    assert swarm.create_network("a").ipam[0].subnet == "10.0.1.0/24"


def test_a_subnet_that_overlaps_another_networks_is_refused_with_its_name() -> None:
    swarm = Swarm(0)
    swarm.create_network("a", "10.1.0.0/16")
    spec = NetworkSpec(annotations=Annotations(name="b"), ipam=(IpamConfig(subnet="10.1.7.0/24"),))
    with pytest.raises(InvalidArgument, match=r"overlaps 10\.1\.0\.0/16 of network 'a'"):
        create_network(swarm.state, CreateNetworkRequest(spec=spec), NetworkId("b"))


def test_two_networks_created_at_the_same_time_do_not_share_a_subnet() -> None:
    swarm = Swarm(0)
    both = [
        create_network(
            swarm.state, CreateNetworkRequest(spec=NetworkSpec(annotations=Annotations(name=name))), NetworkId(name)
        )
        for name in ("a", "b")
    ]
    assert swarm.write(*both[0].ops).conflict is None
    conflict = swarm.write(*both[1].ops).conflict
    assert conflict is not None
    assert conflict.reason is ConflictReason.ADDRESS


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (NetworkSpec(annotations=Annotations(name="bridge")), "annotations.name"),
        (NetworkSpec(annotations=Annotations(name="-")), "annotations.name"),
        (
            NetworkSpec(annotations=Annotations(name="x", labels={"com.docker.swarm.predefined": ""})),
            "annotations.labels",
        ),
        (NetworkSpec(annotations=Annotations(name="x"), driver=DriverConfig(name="host")), "driver.name"),
        (NetworkSpec(annotations=Annotations(name="x"), ingress=True, attachable=True), "attachable"),
        (NetworkSpec(annotations=Annotations(name="x"), ipam_driver=DriverConfig(name="mine")), "ipam_driver.name"),
        (NetworkSpec(annotations=Annotations(name="x"), ipam=(IpamConfig(gateway="10.0.0.1"),)), "ipam[0].subnet"),
        (NetworkSpec(annotations=Annotations(name="x"), ipam=(IpamConfig(subnet="10.0.0.1/24"),)), "ipam[0].subnet"),
        (NetworkSpec(annotations=Annotations(name="x"), ipam=(IpamConfig(subnet="10.0.0.0/31"),)), "ipam[0].subnet"),
        (
            NetworkSpec(
                annotations=Annotations(name="x"), ipam=(IpamConfig(subnet="10.0.0.0/24", gateway="10.0.1.1"),)
            ),
            "ipam[0].gateway",
        ),
        (
            NetworkSpec(
                annotations=Annotations(name="x"), ipam=(IpamConfig(subnet="10.0.0.0/24", range="10.0.1.0/25"),)
            ),
            "ipam[0].range",
        ),
        (
            NetworkSpec(
                annotations=Annotations(name="x"),
                ipam=(IpamConfig(subnet="10.0.0.0/24"), IpamConfig(subnet="10.0.0.0/8")),
            ),
            "ipam[1].subnet",
        ),
        (NetworkSpec(annotations=Annotations(name="x"), ipv6=True), "ipv6"),
        (NetworkSpec(annotations=Annotations(name="x"), ipam=(IpamConfig(subnet="fd00::/64"),)), "ipam"),
    ],
)
def test_a_mistake_in_a_network_is_told_with_its_place(spec: NetworkSpec, path: str) -> None:
    assert path in refused(Swarm(0), spec)


def test_asking_twice_makes_one_network() -> None:
    swarm = Swarm(0)
    request = CreateNetworkRequest(spec=NetworkSpec(annotations=Annotations(name="a")), request_id="r")
    swarm.write(*create_network(swarm.state, request, NetworkId("x")).ops)
    again = create_network(swarm.state, request, NetworkId("y"))
    assert not again.ops
    assert len([each for each in swarm.state.networks.values() if not each.spec.ingress]) == 1


def test_the_ingress_network_is_there_once_and_stays() -> None:
    swarm = Swarm(1)
    swarm.settle()
    ingress = [each for each in swarm.state.networks.values() if each.spec.ingress]
    assert [each.spec.annotations.name for each in ingress] == [INGRESS]
    with pytest.raises(FailedPrecondition, match="predefined"):
        remove_network(swarm.state, RemoveNetworkRequest(network_id=ingress[0].id))
    spec = NetworkSpec(annotations=Annotations(name="mine"), ingress=True)
    with pytest.raises(AlreadyExists):
        create_network(swarm.state, CreateNetworkRequest(spec=spec), NetworkId("mine"))
    swarm.become_leader()
    swarm.settle()
    assert len(swarm.state.networks) == 1


def test_networks_are_listed_by_name_and_filtered() -> None:
    swarm = Swarm(0)
    swarm.create_network("b")
    swarm.create_network("a")
    assert [each.spec.annotations.name for each in list_networks(swarm.state, Filters())] == ["a", "b"]
    assert [each.spec.annotations.name for each in list_networks(swarm.state, Filters(names=("b",)))] == ["b"]


def test_a_service_has_a_virtual_address_and_each_task_one_of_its_own() -> None:
    swarm = Swarm(2)
    swarm.create_network("back")
    swarm.create_service(on("back", replicas=3))
    swarm.settle()
    assert virtual(swarm) == ["10.0.0.2"]
    assert addresses(swarm) == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
    assert len(swarm.running()) == 3


def test_a_service_without_virtual_address_gives_its_tasks_addresses_all_the_same() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    swarm.create_service(on("back", mode=EndpointMode.DNSRR))
    swarm.settle()
    assert swarm.service().endpoint is None
    assert addresses(swarm) == ["10.0.0.2"]


def test_addresses_come_from_the_range_and_never_are_the_gateways() -> None:
    swarm = Swarm(1)
    config = IpamConfig(subnet="10.9.0.0/24", range="10.9.0.128/30", gateway="10.9.0.129")
    swarm.create_network("back", ipam=(config,))
    swarm.create_service(on("back", replicas=2))
    swarm.settle()
    assert virtual(swarm) + addresses(swarm) == ["10.9.0.128", "10.9.0.130", "10.9.0.131"]


def test_a_network_of_both_families_gives_an_address_of_each() -> None:
    swarm = Swarm(1)
    swarm.create_network("back", "10.9.0.0/24", "fd00:9::/64", ipv6=True)
    swarm.create_service(on("back"))
    swarm.settle()
    assert swarm.tasks()[0].networks == (
        NetworkAddresses(network_id=NetworkId("id-back"), addresses=("10.9.0.3", "fd00:9::3")),
    )


def test_a_service_names_networks_by_name_and_they_are_kept_by_id() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    service = swarm.create_service(on("back"))
    assert service.spec.task.networks[0].target == "id-back"


@pytest.mark.parametrize(
    ("driver", "network", "words"),
    [
        ("process", "back", "the process driver attaches tasks to no network"),
        ("oci", "back", "the oci driver attaches tasks to no network"),
        ("docker", "wide", "does not carry overlay networks"),
        ("fake", "ingress", "nothing is attached to the ingress network"),
        ("fake", "none-such", "there is no such network"),
    ],
)
def test_a_network_that_cannot_be_had_is_refused_with_its_name(driver: str, network: str, words: str) -> None:
    swarm = Swarm(1)
    swarm.settle()
    swarm.create_network("back")
    swarm.create_network("wide", driver=DriverConfig(name="overlay"))
    spec = on(network)
    task = _replace(spec.task, driver=driver, container=_replace(spec.task.container, image="v1", command=("x",)))
    with pytest.raises(InvalidArgument, match=words):
        swarm.create_service(_replace(spec, task=task))


def test_addresses_of_ended_tasks_are_dealt_again_but_not_at_once() -> None:
    swarm = Swarm(1, history=1)
    swarm.create_network("back")
    swarm.create_service(on("back"))
    swarm.settle()
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(10)
    assert [task.networks[0].addresses for task in swarm.running()] == [("10.0.0.4",)]
    assert not swarm.state.addresses.holders(NetworkId("id-back")) & {
        task.id for task in swarm.tasks() if task.status.state.terminal
    }


def test_a_task_waits_for_an_address_and_why_says_so_until_one_comes_free() -> None:
    swarm = Swarm(1)
    swarm.create_network("small", "10.9.0.0/29")
    swarm.create_service(on("small", replicas=6))
    swarm.settle()
    waiting = swarm.tasks(where=lambda task: task.status.state is TaskState.NEW)
    assert [task.status.message for task in waiting] == ["waiting for a free address in network small"] * 2
    findings = why(swarm.planning.desk, waiting[0].id, swarm.now).findings
    assert "a free address in network small" in findings[0].waits_for
    swarm.scale("web", 3)
    swarm.settle()
    assert len(swarm.running()) == 3
    swarm.scale("web", 4)
    swarm.settle()
    assert len(swarm.running()) == 4


def test_what_waits_for_an_address_gets_the_one_that_another_service_gives_back() -> None:
    swarm = Swarm(1)
    swarm.create_network("small", "10.9.0.0/29")
    swarm.create_service(on("small", name="a", replicas=2))
    swarm.settle()
    swarm.create_service(on("small", name="b", replicas=2))
    swarm.settle()
    assert len(swarm.running("b")) == 1
    swarm.scale("a", 1)
    swarm.settle()
    assert len(swarm.running("b")) == 2


def test_a_new_leader_deals_nothing_twice() -> None:
    swarm = Swarm(2)
    swarm.create_network("back")
    swarm.create_service(on("back", replicas=3))
    swarm.settle()
    before = addresses(swarm)
    swarm.become_leader()
    swarm.settle()
    assert addresses(swarm) == before
    swarm.scale("web", 5)
    swarm.settle()
    assert len(set(addresses(swarm) + virtual(swarm))) == 6


def test_the_store_refuses_an_address_that_another_task_holds() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    swarm.create_service(on("back", replicas=2))
    swarm.settle()
    one, other = swarm.running()
    conflict = swarm.write(update(_replace(one, networks=other.networks))).conflict
    assert conflict is not None
    assert conflict.reason is ConflictReason.ADDRESS


def test_a_dealt_address_whose_write_was_refused_is_free_again() -> None:
    swarm = Swarm(1)
    swarm.create_network("small", "10.9.0.0/29")
    swarm.create_service(on("small", mode=EndpointMode.DNSRR))
    while not any(task.networks for task in swarm.planning.desk.tasks.values()):
        for flight in swarm.plan()[:]:
            if not any(task.networks for task in swarm.planning.desk.tasks.values()):
                swarm.land(flight)
    swarm.write(remove(swarm.tasks()[0]))
    swarm.settle()
    allocate = next(loop for loop in swarm.planning._loops if isinstance(loop, Allocate))
    allocate.leases.check()
    assert allocate.leases.free(NetworkId("id-small")) == 4
    assert len(swarm.running()) == 1


def test_a_change_of_networks_rolls_the_tasks_over() -> None:
    swarm = Swarm(1)
    swarm.create_network("front")
    swarm.create_network("back")
    swarm.create_service(on("front", replicas=2))
    swarm.settle()
    kept = virtual(swarm)
    swarm.update_service("web", on("id-front", "id-back", replicas=2))
    swarm.pass_time(60)
    assert virtual(swarm) == [*kept, "10.0.1.2"]
    assert all(len(task.networks) == 2 for task in swarm.running())


def test_a_network_in_use_stays() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    swarm.create_service(on("back"))
    swarm.settle()
    with pytest.raises(FailedPrecondition, match="used by: web"):
        swarm.remove_network("back")
    conflict = swarm.write(remove(swarm.state.networks[NetworkId("id-back")])).conflict
    assert conflict is not None
    assert conflict.reason is ConflictReason.REFERENCE
    swarm.remove_service("web")
    swarm.remove_network("back")
    swarm.settle()
    assert NetworkId("id-back") not in swarm.state.networks


def test_a_network_that_an_update_may_go_back_to_stays_until_it_is_over() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    config = UpdateConfig(failure_action=FailureAction.ROLLBACK)
    swarm.create_service(_replace(on("back"), update=config))
    swarm.settle()
    swarm.behaviour = lambda task: TaskState.FAILED
    swarm.update_service("web", _replace(a_service_spec("web", image="v2"), update=config))
    swarm.settle()
    if swarm.service().update_status is None:
        pytest.fail("the update began")
    with pytest.raises(FailedPrecondition, match="used by: web"):
        swarm.remove_network("back")
    swarm.behaviour = lambda task: None
    swarm.pass_time(120)
    status = swarm.service().update_status
    assert status is not None
    assert status.state is UpdateState.ROLLBACK_COMPLETED
    assert swarm.service().spec.task.networks[0].target == "id-back"


def test_tasks_of_an_earlier_version_keep_their_network() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    swarm.create_service(on("back", replicas=3))
    swarm.settle()
    swarm.update_service("web", _replace(a_service_spec("web", replicas=3), update=UpdateConfig(delay_s=1000)))
    swarm.settle()
    swarm.update_service("web", paused_spec(swarm))
    swarm.settle()
    with pytest.raises(FailedPrecondition):
        swarm.remove_network("back")


def paused_spec(swarm: Swarm) -> ServiceSpec:
    """The same again, so that what came before the update is no longer its previous spec."""
    return _replace(swarm.service().spec, mode=Replicated(replicas=3), rebalance=True)


def test_a_service_of_many_tasks_gets_as_many_addresses_as_its_network_has() -> None:
    swarm = Swarm(1, seed=3)
    swarm.create_network("wide", "10.8.0.0/22")
    swarm.create_service(on("wide", replicas=300))
    swarm.settle()
    assert len(set(addresses(swarm))) == 300


def test_a_task_template_with_an_address_of_its_own_is_refused() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    attachment = NetworkAttachmentConfig(target=NetworkId("back"), addresses=("10.0.0.9",))
    with pytest.raises(InvalidArgument, match="cannot be chosen"):
        swarm.create_service(a_service_spec(task=TaskSpec(driver="fake", networks=(attachment,))))
