"""What others read of the route table and of the gateway's numbers."""

from __future__ import annotations

import json
from typing import Any

from services.gateway.core.discovery import metrics, prometheus_targets, traefik_config
from services.kit.messages.routes import Backend, IngressStatus, LatencyCounts, Route, TaskTraffic
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.states import Protocol


def task(name: str, addr: str = "10.0.0.1", *, draining: bool = False) -> Backend:
    return Backend(task_id=TaskId(name), node_id=NodeId("n"), addr=addr, port=20_000, draining=draining)


def route(name: str, *backends: Backend, port: int = 80, protocol: Protocol = Protocol.TCP, **labels: str) -> Route:
    return Route(
        service_id=ServiceId(f"id-{name}"),
        service_name=name,
        published_port=port,
        protocol=protocol,
        backends=backends,
        labels={key.replace("__", "."): value for key, value in labels.items()},
    )


def traefik(*routes: Route) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(traefik_config(routes))
    return parsed["http"]  # type: ignore[no-any-return]


def test_prometheus_finds_the_tasks_that_take_connections() -> None:
    found = json.loads(
        prometheus_targets(
            [
                route("web", task("a"), task("b", "2001:db8::1"), task("c", draining=True)),
                route("dns", task("d"), protocol=Protocol.UDP),
            ]
        )
    )
    (group,) = found
    assert group["targets"] == ["10.0.0.1:20000", "[2001:db8::1]:20000"]
    assert group["labels"]["__meta_swarmbus_service"] == "web"


def test_the_same_table_gives_the_same_bytes_in_any_order() -> None:
    routes = [route("a", task("1")), route("b", task("2")), route("c", task("3"))]
    assert prometheus_targets(routes) == prometheus_targets(routes[::-1])
    labelled = [route(name, task(name), traefik__enable="true") for name in "abc"]
    assert traefik_config(labelled) == traefik_config(labelled[::-1])


def test_labels_become_routers_and_the_tasks_their_servers() -> None:
    web = route(
        "web",
        task("a"),
        task("b", "10.0.0.2"),
        traefik__enable="true",
        traefik__http__routers__Shop__rule="Host(`shop.example`)",
        traefik__http__routers__Shop__entrypoints="web, websecure",
        traefik__http__routers__Shop__tls="true",
        traefik__http__services__Shop__loadbalancer__server__port="80",
        traefik__http__services__Shop__loadbalancer__sticky__cookie="true",
        traefik__http__middlewares__limit__ratelimit__average="100",
    )
    http = traefik(web)
    assert http["routers"]["Shop"] == {
        "rule": "Host(`shop.example`)",
        "entrypoints": ["web", "websecure"],
        "tls": True,
        "service": "Shop",
    }
    balancer = http["services"]["Shop"]["loadBalancer"]
    assert balancer["servers"] == [{"url": "http://10.0.0.1:20000"}, {"url": "http://10.0.0.2:20000"}]
    assert balancer["sticky"] == {"cookie": True}
    assert http["middlewares"]["limit"]["ratelimit"]["average"] == 100


def test_a_service_is_named_only_when_it_asks_for_it() -> None:
    assert traefik(route("web", task("a"), traefik__http__routers__x__rule="PathPrefix(`/`)")) == {}
    http = traefik(route("web", task("a"), traefik__enable="true", traefik__http__routers__x__rule="PathPrefix(`/`)"))
    assert http["routers"]["x"]["service"] == "web"
    assert http["services"]["web"]["loadBalancer"]["servers"]


def test_labels_that_contradict_each_other_harm_nobody() -> None:
    odd = route(
        "web", task("a"), traefik__enable="true", traefik__http__routers="x", traefik__http__routers__y__rule="r"
    )
    assert "services" in traefik(odd)


def test_numbers_are_told_by_service_port_and_task() -> None:
    status = IngressStatus(
        epoch=7,
        workers=2,
        open=3,
        accepted=10,
        closed_ports={"81/tcp": "in use"},
        tasks=(
            TaskTraffic(
                task_id="a", open=3, connections=9, bytes_in=1024, connects=LatencyCounts(sum_s=2.5, counts=(4, 3, 2))
            ),
            TaskTraffic(task_id="gone", failures=1),
        ),
        latency_bounds_s=(0.001, 1.0),
    )
    lines = metrics(status, [route('we"b', task("a"))]).decode().splitlines()
    assert "swarmbus_ingress_accepted_total 10" in lines
    assert 'swarmbus_ingress_closed_port{port="81/tcp"} 1' in lines
    assert 'swarmbus_ingress_task_connections_total{service="we\\"b",port="80/tcp",task="a"} 9' in lines
    assert 'swarmbus_ingress_task_failures_total{service="",port="",task="gone"} 1' in lines
    labels = 'service="we\\"b",port="80/tcp",task="a"'
    buckets = [
        line.partition(" ")[2] for line in lines if line.startswith("swarmbus_ingress_task_connect_seconds_bucket")
    ]
    assert buckets == ["4", "7", "9"]
    assert f'swarmbus_ingress_task_connect_seconds_bucket{{{labels},le="+Inf"}} 9' in lines
    assert f"swarmbus_ingress_task_connect_seconds_sum{{{labels}}} 2.5" in lines
    assert f"swarmbus_ingress_task_connect_seconds_count{{{labels}}} 9" in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
