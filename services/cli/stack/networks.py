"""Networks of a stack file: what they are, which services are on them, and what a deployment does with them.

As with secrets, a service names them by their full names until they have ids. A network never changes, so one that is there with other
settings is refused: it has to be removed first. A service without ``networks`` is on none, unless the file has a network ``default``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from services.cli.stack.payloads import PayloadStep
from services.cli.stack.places import Place
from services.cli.stack.words import read_labels, switch, text_of, texts
from services.kit.errors import FailedPrecondition, NotFound
from services.kit.model.ids import NetworkId
from services.kit.model.network_rules import ENGINES_OWN, OVERLAY
from services.kit.model.objects import Network
from services.kit.model.specs import (
    Annotations,
    DriverConfig,
    IpamConfig,
    NetworkAttachmentConfig,
    NetworkSpec,
    ServiceSpec,
)
from services.kit.model.validate import network_problems
from services.kit.model.value import Value

NOUN = "network"
DEFAULT = "default"
TOP_KEYS = ("name", "driver", "driver_opts", "external", "internal", "attachable", "labels", "enable_ipv6", "ipam")
TOP_REFUSED = {"enable_ipv4": "every network has IPv4"}
IPAM_KEYS = ("driver", "config", "options")
RANGE_KEYS = ("subnet", "gateway", "ip_range")
RANGE_REFUSED = {"aux_addresses": "addresses are dealt by the swarm: give ip_range a part that is free"}
USE_KEYS = ("aliases", "driver_opts")
_CHOSEN = "cannot be chosen: every task gets an address of its own"
USE_REFUSED = {
    "ipv4_address": _CHOSEN,
    "ipv6_address": _CHOSEN,
    "link_local_ips": _CHOSEN,
    "mac_address": _CHOSEN,
    "priority": "name the networks in the order in which a task is to have them",
    "gw_priority": "name the networks in the order in which a task is to have them",
    "interface_name": "it is the engine's to choose",
}


class StackNetwork(Value, frozen=True, kw_only=True):
    """A network of the file."""

    name: str
    """In the swarm."""
    spec: NetworkSpec | None = None
    """None for one that exists outside of the stack."""

    @property
    def engines_own(self) -> bool:
        """True for bridge, host and none, which every node's engine has."""
        return self.spec is None and self.name in ENGINES_OWN


def read_networks(place: Place | None, stack: str, label: str) -> dict[str, StackNetwork]:
    """Return the networks by the names that the file's services use."""
    if place is None:
        return {}
    return {key: _network(key, value, stack, label) for key, value in place.fields().items()}


def _network(key: str, place: Place, stack: str, label: str) -> StackNetwork:
    fields = place.fields(TOP_KEYS, TOP_REFUSED) if not place.empty else {}
    external = fields["external"].parsed(switch, False) if "external" in fields else False
    name = text_of(fields.get("name")) or (key if external else f"{stack}_{key}")
    if external:
        if set(fields) - {"external", "name"}:
            place.refuse("is external and says how to make it", hint="leave out one of both")
        return StackNetwork(name=name)
    driver = text_of(fields.get("driver"))
    if driver == OVERLAY:
        hint = "leave the driver out: tasks of one node reach one another; publish ports for the others"
        fields["driver"].refuse("is not carried between nodes", driver, hint)
    options = fields["driver_opts"].fields() if "driver_opts" in fields else {}
    labels = {**read_labels(fields.get("labels")), label: stack}
    spec = NetworkSpec(
        annotations=Annotations(name=name, labels=labels),
        driver=DriverConfig(name=driver, options={option: value.text() for option, value in options.items()}),
        ipv6=_flag(fields, "enable_ipv6"),
        internal=_flag(fields, "internal"),
        attachable=_flag(fields, "attachable"),
        ipam=_ranges(fields.get("ipam")),
    )
    for problem in network_problems(spec):
        place.refuse(f"{problem.path} {problem.reason}", problem.value, problem.hint)
    return StackNetwork(name=name, spec=spec)


def _flag(fields: Mapping[str, Place], key: str) -> bool:
    return fields[key].parsed(switch, False) if key in fields else False


def _ranges(place: Place | None) -> tuple[IpamConfig, ...]:
    if place is None:
        return ()
    fields = place.fields(IPAM_KEYS)
    driver = text_of(fields.get("driver"))
    if driver not in {"", "default"}:
        fields["driver"].refuse("is not known", driver, "swarmbus deals addresses itself")
    if "options" in fields:
        fields["options"].refuse("are not known", hint="swarmbus deals addresses itself")
    found = []
    for item in fields["config"].items() if "config" in fields else []:
        parts = item.fields(RANGE_KEYS, RANGE_REFUSED)
        found.append(
            IpamConfig(
                subnet=text_of(parts.get("subnet")),
                gateway=text_of(parts.get("gateway")),
                range=text_of(parts.get("ip_range")),
            )
        )
    return tuple(found)


# -- what services use


def read_uses(
    place: Place | None, mode: Place | None, driver: str, known: Mapping[str, StackNetwork]
) -> tuple[NetworkAttachmentConfig, ...]:
    """Return the networks of a service, the targets by full name until ``with_network_ids``."""
    if place is None:
        default = known.get(DEFAULT)
        if default is None or mode is not None or driver != "docker" or default.engines_own:
            return ()
        return (NetworkAttachmentConfig(target=NetworkId(default.name)),)
    if mode is not None:
        place.refuse("does not go with network_mode", hint="keep one of them")
    uses = place.fields() if place.is_mapping else {item.text(): None for item in place.items()}
    found = []
    for name, use in uses.items():
        network = known.get(name)
        if network is None:
            place.refuse("names a network that the file does not have", name, "add it under networks: at the top")
        elif not network.engines_own:
            found.append(_use(network, use))
        elif len(uses) > 1:
            place.refuse("is the engine's own and goes with no other", network.name)
    return tuple(found)


def engines_network(place: Place | None, driver: str, known: Mapping[str, StackNetwork]) -> str:
    """Return which of the engine's own networks a service names, or is on because the file's default is that; usually none."""
    if place is None:
        default = known.get(DEFAULT)
        return default.name if default is not None and default.engines_own and driver != "process" else ""
    names = list(place.fields()) if place.is_mapping else [item.text() for item in place.items()]
    found = [known[name].name for name in names if name in known and known[name].engines_own]
    return found[0] if found else ""


def _use(network: StackNetwork, place: Place | None) -> NetworkAttachmentConfig:
    fields = {} if place is None or place.empty else place.fields(USE_KEYS, USE_REFUSED)
    options = fields["driver_opts"].fields() if "driver_opts" in fields else {}
    return NetworkAttachmentConfig(
        target=NetworkId(network.name),
        aliases=texts(fields.get("aliases")),
        driver_options={option: value.text() for option, value in options.items()},
    )


# -- what a deployment does with them


def plan_networks(
    wanted: Iterable[StackNetwork], there: Mapping[str, Network], label: str, stack: str, *, prune: bool
) -> tuple[PayloadStep, ...]:
    """Return a step for each; raises NotFound for an external one that is not there, FailedPrecondition for one with other settings."""
    steps = []
    names = set()
    for network in wanted:
        names.add(network.name)
        known = there.get(network.name)
        if network.spec is None:
            if known is None and not network.engines_own:
                raise NotFound(f"there is no network {network.name!r}, which the stack file has as external")
            continue
        if known is not None and known.spec != network.spec:
            hint = "a network cannot change: remove it, and the services that are on it, first"
            raise FailedPrecondition(f"network {network.name!r} is there with other settings; {hint}")
        steps.append(PayloadStep(verb="create" if known is None else "leave", noun=NOUN, name=network.name))
    gone = sorted(set(of_stack(there, label, stack)) - names) if prune else []
    return (*steps, *(PayloadStep(verb="remove", noun=NOUN, name=name) for name in gone))


def of_stack(there: Mapping[str, Network], label: str, stack: str) -> list[str]:
    """Return the names of those that a stack made."""
    return sorted(name for name, each in there.items() if each.spec.annotations.labels.get(label) == stack)


def with_network_ids(spec: ServiceSpec, there: Mapping[str, Network]) -> ServiceSpec:
    """Return a spec whose networks have the ids of what they name; what is not there yet keeps its name."""
    networks = tuple(
        replace(each, target=there[each.target].id) if each.target in there else each for each in spec.task.networks
    )
    return replace(spec, task=replace(spec.task, networks=networks))
