"""What a port may ask of the gateways."""

from __future__ import annotations

import pytest

from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    EndpointSpec,
    IngressConfig,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from services.kit.model.validate import service_problems


def problems_of(ingress: IngressConfig) -> list[str]:
    spec = ServiceSpec(
        annotations=Annotations(name="web"),
        task=TaskSpec(driver="fake", container=ContainerSpec(image="v1")),
        endpoint=EndpointSpec(ports=(PortConfig(target_port=80, ingress=ingress),)),
    )
    return [problem.path for problem in service_problems(spec)]


def test_a_port_may_ask_for_all_there_is() -> None:
    ingress = IngressConfig(
        weight_label="power",
        local_first=True,
        slow_start_s=10,
        drain_s=30,
        idle_timeout_s=0,
        connections_max=10,
        addresses=("192.0.2.1", "2001:db8::1"),
        nodes=("node.labels.edge==yes",),
        proxy_from=("10.0.0.0/8", "fd00::/8"),
    )
    assert problems_of(ingress) == []


@pytest.mark.parametrize(
    ("ingress", "path"),
    [
        (IngressConfig(slow_start_s=-1), "slow_start_s"),
        (IngressConfig(drain_s=-1), "drain_s"),
        (IngressConfig(idle_timeout_s=-1), "idle_timeout_s"),
        (IngressConfig(connections_max=-1), "connections_max"),
        (IngressConfig(addresses=("192.0.2.1", "here")), "addresses[1]"),
        (IngressConfig(proxy_from=("10.0.0.1/8",)), "proxy_from[0]"),
        (IngressConfig(nodes=("edge",)), "nodes[0]"),
        (IngressConfig(nodes=("node.colour==red",)), "nodes[0]"),
    ],
)
def test_each_mistake_is_named(ingress: IngressConfig, path: str) -> None:
    assert problems_of(ingress) == [f"endpoint.ports[0].ingress.{path}"]
