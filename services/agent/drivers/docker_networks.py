"""Networks of the swarm as networks of one Docker engine. Pure; used by the docker driver.

Each engine makes a network of its own for a network of the swarm, with the swarm's subnet, when the first task needs it. Tasks of one node
reach one another on it by name and address; to tasks of other nodes nothing leads, which is why the driver ``overlay`` is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from services.agent.core.bundle import Attachment
from services.kit.model.network_rules import BRIDGE, OVERLAY
from services.kit.model.objects import Network

NETWORK_LABEL = "swarmbus.network.id"
NAME_LABEL = "swarmbus.network.name"

Json = dict[str, object]


def engine_network(network_id: str) -> str:
    """Return the name that a network of the swarm has in an engine."""
    return f"swarmbus-{network_id}"


def unsupported_networks(attachments: Iterable[Attachment]) -> list[str]:
    """Return what of a task's networks cannot be carried, by name."""
    return [
        f"task.networks.{each.network.spec.annotations.name} (driver {OVERLAY})"
        for each in attachments
        if each.network.spec.driver.name == OVERLAY
    ]


def network_config(network: Network) -> Json:
    """Return what the engine is told to make a network."""
    spec = network.spec
    ranges: list[Json] = [{"Subnet": each.subnet, "Gateway": each.gateway} for each in network.ipam]
    return {
        "name": engine_network(network.id),
        "driver": spec.driver.name or BRIDGE,
        "options": dict(spec.driver.options),
        "ipam": {"Driver": "default", "Config": ranges},
        "internal": spec.internal,
        "enable_ipv6": spec.ipv6,
        "check_duplicate": True,
        "labels": {
            **spec.annotations.labels,
            NETWORK_LABEL: network.id,
            NAME_LABEL: spec.annotations.name,
        },
    }


def endpoint_config(attachment: Attachment) -> Json:
    """Return a container's place on a network as the engine is told of it."""
    config: Json = {"Aliases": list(attachment.aliases)}
    addresses = _by_family(attachment)
    if addresses:
        config["IPAMConfig"] = {f"IPv{family}Address": address for family, address in addresses.items()}
    if attachment.options:
        config["DriverOpts"] = dict(attachment.options)
    return config


def connect_config(attachment: Attachment) -> Json:
    """Return the same for a container that is there already."""
    config: Json = {"aliases": list(attachment.aliases)}
    config |= {f"ipv{family}_address": address for family, address in _by_family(attachment).items()}
    if attachment.options:
        config["driver_opt"] = dict(attachment.options)
    return config


def _by_family(attachment: Attachment) -> dict[int, str]:
    return {ip_address(address).version: address for address in attachment.addresses}
