"""What makes a network's spec valid, and the networks that a task asks for. Used by ``validate`` and by the dispatcher.

Rules that need other objects (is this subnet free, does this network exist) are the dispatcher's.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network, ip_address, ip_network

from services.kit.model.problems import Problems
from services.kit.model.specs import IpamConfig, NetworkingConfig, NetworkSpec, TaskSpec
from services.kit.model.subnets import Subnet, dealt_range, filled_in, holds_address, overlap

INGRESS = "ingress"
"""Name of the predefined network of published ports."""
BRIDGE = "bridge"
OVERLAY = "overlay"
PREDEFINED_LABEL = "com.docker.swarm.predefined"
ENGINES_OWN = frozenset({"bridge", "host", "none"})
"""Networks that every engine has; a service takes one by the option ``network`` of its driver."""
NETWORKLESS = frozenset({"process", "oci"})
"""Drivers whose tasks are on the node's own network and nowhere else."""
SUBNET_SIZE_MIN = 8
SUBNET_SIZE_MAX = 29
"""Such a subnet still has five addresses to deal."""
POOLS_MAX = 32
ADDRESSES_MIN = 4
"""Of a subnet: its own, its gateway's, its broadcast and a task's."""
SUBNETS_MAX = 16
"""Ranges of one network."""


def network_spec_problems(problems: Problems, spec: NetworkSpec) -> None:
    """Note every mistake in a network's spec but for its name."""
    name = spec.annotations.name
    if name.lower() in ENGINES_OWN:
        problems.add("annotations.name", "is taken: every engine has such a network", name)
    if PREDEFINED_LABEL in spec.annotations.labels:
        problems.add("annotations.labels", "is reserved", PREDEFINED_LABEL)
    if spec.driver.name.lower() in {"host", "null", "none"}:
        hint = "give the service the option network=host (or none) of its driver"
        problems.add("driver.name", "is the engine's own network and cannot be made", spec.driver.name, hint)
    if spec.ingress and spec.attachable:
        problems.add("attachable", "does not go with ingress")
    if spec.ipam_driver.name not in {"", "default"}:
        problems.add("ipam_driver.name", "is not known", spec.ipam_driver.name, "swarmbus deals addresses itself")
    elif spec.ipam_driver.options:
        problems.add("ipam_driver.options", "are not known", ", ".join(sorted(spec.ipam_driver.options)))
    _ipam(problems, spec)


def networking_problems(problems: Problems, path: str, config: NetworkingConfig) -> None:
    """Note every mistake in the cluster's address pools."""
    if not SUBNET_SIZE_MIN <= config.subnet_size <= SUBNET_SIZE_MAX:
        reason = f"must be between {SUBNET_SIZE_MIN} and {SUBNET_SIZE_MAX}"
        problems.add(f"{path}.subnet_size", reason, config.subnet_size)
    pools: list[IPv4Network] = []
    where = f"{path}.default_address_pools"
    if not 1 <= len(config.default_address_pools) <= POOLS_MAX:
        problems.add(where, f"must be 1 to {POOLS_MAX} pools", len(config.default_address_pools))
    for index, text in enumerate(config.default_address_pools):
        pool = _network(problems, f"{where}[{index}]", text)
        if pool is None:
            continue
        if not isinstance(pool, IPv4Network):
            problems.add(f"{where}[{index}]", "must be an IPv4 range", text)
        elif pool.prefixlen > config.subnet_size:
            problems.add(f"{where}[{index}]", f"is smaller than a subnet of /{config.subnet_size}", text)
        elif any(pool.overlaps(other) for other in pools):
            problems.add(f"{where}[{index}]", "overlaps another pool", text)
        else:
            pools.append(pool)


def task_network_problems(problems: Problems, path: str, task: TaskSpec) -> None:
    """Note every mistake in the networks that a task asks for."""
    if not task.networks:
        return
    if task.driver in NETWORKLESS:
        hint = "leave the networks out, or choose the docker driver"
        problems.add(f"{path}.networks", f"the {task.driver} driver attaches tasks to no network", hint=hint)
    if "network" in task.driver_options:
        problems.add(f"{path}.driver_options.network", "does not go with networks of the swarm")
    for index, attachment in enumerate(task.networks):
        where = f"{path}.networks[{index}]"
        if not attachment.target:
            problems.add(f"{where}.target", "must name a network")
        if attachment.addresses:
            hint = "leave them out: every task gets an address of its own"
            problems.add(f"{where}.addresses", "cannot be chosen", ", ".join(attachment.addresses), hint)
    for target, times in Counter(each.target for each in task.networks).items():
        if times > 1:
            problems.add(f"{path}.networks", "a network is named twice", target)


def _ipam(problems: Problems, spec: NetworkSpec) -> None:
    if spec.ingress and spec.ipam:
        problems.add("ipam", "the ingress network has no addresses: nothing is attached to it")
    if len(spec.ipam) > SUBNETS_MAX:
        problems.add("ipam", f"has {len(spec.ipam)} ranges, {SUBNETS_MAX} are allowed")
        return
    before = len(problems.found)
    families = [_range(problems, f"ipam[{index}]", config) for index, config in enumerate(spec.ipam)]
    if len(problems.found) > before:
        return
    for index, config in enumerate(spec.ipam):
        shared = overlap((config,), spec.ipam[:index])
        if shared is not None:
            problems.add(f"ipam[{index}].subnet", f"overlaps {shared[1]}", shared[0])
    if spec.ipv6 and 6 not in families:
        problems.add("ipv6", "needs a subnet of IPv6", hint="the default pools have IPv4 only")
    if 6 in families and not spec.ipv6:
        problems.add("ipam", "names a subnet of IPv6, but IPv6 is not asked for", hint="set ipv6")


def _range(problems: Problems, path: str, config: IpamConfig) -> int:
    """Note what is wrong with one range, and return its family; one without a subnet gets one of IPv4."""
    if not config.subnet:
        if config.range or config.gateway:
            problems.add(f"{path}.subnet", "must be given with a range or a gateway")
        return 4
    subnet = _network(problems, f"{path}.subnet", config.subnet)
    if subnet is None:
        return 0
    before = len(problems.found)
    _parts(problems, path, config, subnet)
    if len(problems.found) == before and (
        subnet.num_addresses < ADDRESSES_MIN or dealt_range(filled_in(config)).size < 1
    ):
        problems.add(f"{path}.subnet", "has no address left for a task", config.subnet)
    return subnet.version


def _parts(problems: Problems, path: str, config: IpamConfig, subnet: Subnet) -> None:
    if config.range:
        part = _network(problems, f"{path}.range", config.range)
        if part is not None and not _lies_within(part, subnet):
            problems.add(f"{path}.range", f"is not a part of {subnet}", config.range)
    if config.gateway:
        try:
            gateway = ip_address(config.gateway)
        except ValueError:
            problems.add(f"{path}.gateway", "is not an IP address", config.gateway)
            return
        if not holds_address(subnet, gateway):
            problems.add(f"{path}.gateway", f"is not in {subnet}", config.gateway)
        elif gateway == subnet.network_address and subnet.num_addresses > 1:
            problems.add(f"{path}.gateway", f"is the address of {subnet} itself", config.gateway)


def _lies_within(part: Subnet, subnet: Subnet) -> bool:
    whole = part.prefixlen >= subnet.prefixlen
    return part.version == subnet.version and whole and holds_address(subnet, part.network_address)


def _network(problems: Problems, path: str, text: str) -> Subnet | None:
    try:
        return ip_network(text)
    except ValueError:
        problems.add(
            path, "is not an address range", text, "write it like 10.1.0.0/24, with no bits set behind the prefix"
        )
        return None
