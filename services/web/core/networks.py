"""Networks in Docker's words, both ways. The engine's own (bridge, host, none) are shown as well: clients look for them."""

from __future__ import annotations

from services.kit.model.network_rules import BRIDGE, OVERLAY
from services.kit.model.objects import Network
from services.kit.model.specs import Annotations, DriverConfig, IpamConfig, NetworkSpec
from services.web.core.json import Body, Json, reading, without_empty
from services.web.core.times import rfc3339

NO_OVERLAY = (
    "there are no overlay networks: a network of the driver bridge joins tasks of the same node,"
    " and services reach one another through published ports; the networks host, bridge and none of the node's engine can be named"
)


def _shown(name: str, network_id: str, driver: str, scope: str, **more: object) -> Json:
    return {
        "Name": name,
        "Id": network_id,
        "Created": "0001-01-01T00:00:00Z",
        "Scope": scope,
        "Driver": driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
        **more,
    }


ENGINES: tuple[Json, ...] = tuple(
    _shown(name, name, driver, "local") for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null"))
)


def network(found: Network) -> Json:
    """Return a network of the swarm."""
    spec = found.spec
    ranges = [
        without_empty({"Subnet": each.subnet, "IPRange": each.range, "Gateway": each.gateway}) for each in found.ipam
    ]
    return _shown(
        spec.annotations.name,
        found.id,
        "ingress" if spec.ingress else spec.driver.name or BRIDGE,
        "swarm",
        Created=rfc3339(found.meta.created_at),
        EnableIPv6=spec.ipv6,
        IPAM={"Driver": "default", "Options": None, "Config": ranges},
        Internal=spec.internal,
        Attachable=spec.attachable,
        Ingress=spec.ingress,
        Options=dict(spec.driver.options),
        Labels=dict(spec.annotations.labels),
    )


def read_network(value: object) -> NetworkSpec:
    """Return the spec that Docker's words ask for; raises InvalidArgument, and Unimplemented for what there is not."""
    with reading(value) as body:
        body.ignore("CheckDuplicate", "Scope", "EnableIPv4")
        if body.flag("ConfigOnly") or body.child("ConfigFrom").text("Network"):
            raise body.refuse("ConfigOnly", "a network is made from its own settings")
        driver = body.text("Driver")
        if driver == OVERLAY:
            raise body.refuse("Driver", NO_OVERLAY)
        ipam = body.child("IPAM")
        return NetworkSpec(
            annotations=Annotations(name=body.text("Name"), labels=body.mapping("Labels")),
            driver=DriverConfig(name=driver, options=body.mapping("Options")),
            ipv6=body.flag("EnableIPv6"),
            internal=body.flag("Internal"),
            attachable=body.flag("Attachable"),
            ingress=body.flag("Ingress"),
            ipam_driver=DriverConfig(name=ipam.text("Driver"), options=ipam.mapping("Options")),
            ipam=tuple(_range(each) for each in ipam.children("Config")),
        )


def _range(body: Body) -> IpamConfig:
    if body.mapping("AuxiliaryAddresses"):
        raise body.refuse("AuxiliaryAddresses", "addresses are dealt by the swarm: give IPRange a part that is free")
    return IpamConfig(subnet=body.text("Subnet"), range=body.text("IPRange"), gateway=body.text("Gateway"))
