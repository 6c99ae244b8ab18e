"""What users write about published ports, and who may share one."""

from __future__ import annotations

import pytest

from services.kit.errors import InvalidArgument
from services.kit.model.ids import ServiceId
from services.kit.model.ingress import OPTIONS, read_ingress, why_not_together, with_labels
from services.kit.model.objects import Service
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    EndpointSpec,
    HttpConfig,
    IngressConfig,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from services.kit.model.states import BalanceAlgorithm, DataPlane, Protocol, ProxyVersion, PublishMode
from services.kit.model.validate import service_problems
from services.kit.state.ports import PortIndex

EXAMPLES = {
    "http": "",
    "host": "shop.example.org",
    "path": "/api",
    "tls-secret": "site",
    "balance": "least_conn",
    "weight-label": "power",
    "local-first": "true",
    "slow-start": "10s",
    "drain": "1m",
    "idle-timeout": "2h",
    "connections-max": "50",
    "proxy-to": "v2",
    "address": "10.0.0.1",
    "node": "node.labels.edge==yes",
    "proxy-from": "10.0.0.0/8",
    "sni": "db.example.org",
    "plane": "nft",
    "http-head-max": "16k",
    "http-head-timeout": "5s",
}


def http_port(*hosts: str, paths: tuple[str, ...] = (), published: int = 80, **ingress: object) -> PortConfig:
    config = IngressConfig(http=HttpConfig(hosts=hosts, paths=paths), **ingress)  # type: ignore[arg-type]
    return PortConfig(target_port=8000, published_port=published, ingress=config)


def sni_port(*names: str, **ingress: object) -> PortConfig:
    return PortConfig(target_port=8000, published_port=80, ingress=IngressConfig(sni=names, **ingress))  # type: ignore[arg-type]


def service(name: str, port: PortConfig, **labels: str) -> Service:
    spec = ServiceSpec(
        annotations=Annotations(name=name, labels={key.replace("__", "."): value for key, value in labels.items()}),
        task=TaskSpec(driver="fake", container=ContainerSpec(image="v1")),
        endpoint=EndpointSpec(ports=(port,)),
    )
    return Service(id=ServiceId(name), spec=spec, spec_version=1)


def test_every_option_changes_something_and_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(OPTIONS)
    for name, value in EXAMPLES.items():
        assert read_ingress(IngressConfig(), [(name, value)], "x") != IngressConfig(), name


def test_all_options_together_are_what_they_say() -> None:
    assert read_ingress(IngressConfig(), EXAMPLES.items(), "x") == IngressConfig(
        algorithm=BalanceAlgorithm.LEAST_CONN,
        weight_label="power",
        local_first=True,
        slow_start_s=10,
        drain_s=60,
        idle_timeout_s=7200,
        connections_max=50,
        addresses=("10.0.0.1",),
        nodes=("node.labels.edge==yes",),
        proxy_from=("10.0.0.0/8",),
        proxy_to=ProxyVersion.V2,
        http=HttpConfig(hosts=("shop.example.org",), paths=("/api",), head_bytes_max=16384, head_timeout_s=5),
        tls_secret="site",
        sni=("db.example.org",),
        plane=DataPlane.NFT,
    )


@pytest.mark.parametrize(
    ("name", "value"), [("drain", "soon"), ("balance", "best"), ("local-first", "maybe"), ("host", ""), ("hosts", "a")]
)
def test_what_cannot_be_read_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument):
        read_ingress(IngressConfig(), [(name, value)], "x")


# -- labels


def test_labels_of_a_service_say_what_a_port_asks_for() -> None:
    port = PortConfig(target_port=80, name="web", ingress=IngressConfig(drain_s=5))
    labels = {
        "swarmbus.ingress.80.host": "a.example, b.example",
        "swarmbus.ingress.web.drain": "30s",
        "swarmbus.ingress.81.drain": "1h",
        "com.example.other": "x",
    }
    changed = with_labels(port, labels).ingress
    assert changed.http == HttpConfig(hosts=("a.example", "b.example"))
    assert changed.drain_s == 30


@pytest.mark.parametrize("label", ["swarmbus__ingress__81__host", "swarmbus__ingress__80__hots", "swarmbus__ingress"])
def test_a_label_for_no_port_or_with_no_known_option_is_named(label: str) -> None:
    spec = service("a", PortConfig(target_port=80), **{label: "a.example"}).spec
    assert bool(service_problems(spec)) is (label != "swarmbus__ingress")


@pytest.mark.parametrize(
    ("port", "path"),
    [
        (http_port("a b"), "http.hosts[0]"),
        (http_port("*.*.example"), "http.hosts[0]"),
        (http_port(paths=("api",)), "http.paths[0]"),
        (sni_port("a_b"), "sni[0]"),
        (sni_port("a.example", http=HttpConfig()), "sni"),
        (PortConfig(target_port=1, ingress=IngressConfig(http=HttpConfig(head_bytes_max=10))), "http.head_bytes_max"),
        (PortConfig(target_port=1, ingress=IngressConfig(http=HttpConfig(head_timeout_s=0))), "http.head_timeout_s"),
    ],
)
def test_mistakes_are_named(port: PortConfig, path: str) -> None:
    problems = service_problems(service("a", port).spec)
    assert [problem.path for problem in problems] == [f"endpoint.ports[0].ingress.{path}"]


def test_the_kernel_reads_writes_and_counts_nothing() -> None:
    ingress = IngressConfig(
        plane=DataPlane.NFT, http=HttpConfig(), proxy_from=("10.0.0.0/8",), proxy_to=ProxyVersion.V1, connections_max=5
    )
    paths = {
        problem.path.rpartition(".")[2]
        for problem in service_problems(service("a", PortConfig(target_port=1, ingress=ingress)).spec)
    }
    assert paths == {"http", "proxy_from", "proxy_to", "connections_max"}
    udp = PortConfig(target_port=1, protocol=Protocol.UDP, ingress=IngressConfig(plane=DataPlane.NFT))
    assert [problem.path for problem in service_problems(service("a", udp).spec)] == ["endpoint.ports[0].protocol"]


def test_http_is_read_on_tcp_only() -> None:
    port = PortConfig(target_port=1, protocol=Protocol.UDP, ingress=IngressConfig(http=HttpConfig()))
    assert [problem.path for problem in service_problems(service("a", port).spec)] == ["endpoint.ports[0].protocol"]


# -- sharing

PLAIN = PortConfig(target_port=8000, published_port=80)
HOST = PortConfig(target_port=8000, published_port=80, publish_mode=PublishMode.HOST)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (http_port("a.example"), http_port("b.example")),
        (http_port("a.example"), http_port()),
        (http_port("a.example"), http_port("*.example")),
        (http_port("a.example", paths=("/api",)), http_port("a.example")),
        (http_port("a.example", tls_secret="one"), http_port("b.example", tls_secret="two")),
        (http_port("a.example", tls_secret="one"), sni_port("b.example")),
        (sni_port("a.example"), sni_port("*")),
        (HOST, HOST),
    ],
)
def test_ports_that_clients_tell_apart_are_shared(one: PortConfig, other: PortConfig) -> None:
    assert why_not_together(one, other) == ""
    assert why_not_together(other, one) == ""
    index = PortIndex()
    index.add(service("one", one))
    assert index.rival(service("other", other)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLAIN, PLAIN),
        (PLAIN, HOST),
        (PLAIN, http_port("a.example")),
        (http_port(), http_port()),
        (http_port("A.example"), http_port("a.example", "b.example")),
        (http_port("a.example", paths=("/api/",)), http_port("a.example", paths=("/api",))),
        (http_port("a.example"), http_port("b.example", tls_secret="two")),
        (http_port("a.example", paths=("/api",), tls_secret="one"), sni_port("a.example")),
        (http_port("a.example"), http_port("b.example", connections_max=5)),
        (http_port("a.example"), http_port("b.example", proxy_from=("10.0.0.0/8",))),
        (sni_port("a.example"), sni_port("a.example", tls_secret="x")),
    ],
)
def test_ports_that_would_be_mixed_up_are_not(one: PortConfig, other: PortConfig) -> None:
    assert why_not_together(one, other)
    assert why_not_together(other, one)
    index = PortIndex()
    index.add(service("one", one))
    rival = index.rival(service("other", other))
    assert rival is not None
    assert rival[1] == "one"
    index.discard(service("one", one))
    assert index.rival(service("other", other)) is None


def test_labels_count_when_a_port_is_shared() -> None:
    index = PortIndex()
    index.add(service("one", PLAIN, swarmbus__ingress__8000__host="a.example"))
    assert index.rival(service("two", PLAIN, swarmbus__ingress__8000__host="b.example")) is None
    assert index.rival(service("three", PLAIN)) is not None
