"""What the kernel is told to do with new connections."""

from __future__ import annotations

from services.gateway.core.kernel_rules import script, table_name
from services.kit.messages.routes import Backend, Route
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.specs import IngressConfig
from services.kit.model.states import BalanceAlgorithm, DataPlane

ALL = "0.0.0.0"
EMPTY = "table inet swarmbus_n1\ndelete table inet swarmbus_n1\n"


def task(name: str, addr: str = "10.0.0.1", *, node: str = "n1", draining: bool = False) -> Backend:
    return Backend(task_id=TaskId(name), node_id=NodeId(node), addr=addr, port=20_000 + len(name), draining=draining)


def port(*backends: Backend, nodes: tuple[NodeId, ...] | None = None, **ingress: object) -> Route:
    config = IngressConfig(**{"plane": DataPlane.NFT, **ingress})  # type: ignore[arg-type]
    return Route(service_id=ServiceId("s"), published_port=8080, ingress=config, backends=backends, nodes=nodes)


def rules(*routes: Route, host: str = ALL) -> list[str]:
    return [line.strip() for line in script(routes, "n1", host).splitlines() if " dnat " in line]


def test_the_nodes_own_tasks_share_new_connections() -> None:
    assert rules(port(task("bb"), task("a", "10.0.0.2"))) == [
        "meta nfproto ipv4 fib daddr type local tcp dport 8080 "
        "dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 20002, 1 : 10.0.0.2 . 20001 }"
    ]


def test_each_family_has_its_tasks() -> None:
    found = rules(port(task("a"), task("b", "fd00::1"), algorithm=BalanceAlgorithm.MAGLEV))
    assert [rule.partition("dnat")[2] for rule in found] == [
        " ip to jhash ip saddr mod 1 map { 0 : 10.0.0.1 . 20001 }",
        " ip6 to jhash ip6 saddr mod 1 map { 0 : fd00::1 . 20001 }",
    ]


def test_tasks_that_drain_run_elsewhere_or_on_loopback_are_in_no_rule() -> None:
    left_out = (task("a", draining=True), task("b", node="n2"), task("c", "127.0.0.1"))
    assert script([port(*left_out)], "n1", ALL) == EMPTY


def test_other_ports_and_other_nodes_are_none_of_the_kernels_business() -> None:
    assert script([port(task("a"), plane=DataPlane.USERLAND)], "n1", ALL) == EMPTY
    assert script([port(task("a"), nodes=(NodeId("n2"),))], "n1", ALL) == EMPTY


def test_addresses_are_kept_to() -> None:
    assert rules(port(task("a")), host="10.0.0.9")[0].startswith("ip daddr { 10.0.0.9 } tcp dport 8080 ")
    named = port(task("a"), addresses=("10.0.0.7", "10.0.0.8", "fd00::7"))
    assert [rule.partition(" tcp")[0] for rule in rules(named)] == ["ip daddr { 10.0.0.7, 10.0.0.8 }"]
    assert rules(port(task("a"), addresses=("fd00::7",))) == []


def test_the_order_of_the_table_changes_nothing_and_names_are_made_safe() -> None:
    one, other = task("a"), task("b", "10.0.0.2")
    assert script([port(one, other)], "n1", ALL) == script([port(other, one)], "n1", ALL)
    assert table_name("a-b.c;d") == "swarmbus_a_b_c_d"
