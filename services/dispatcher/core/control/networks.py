"""Networks: create, list, remove, and what a service's wish to be on one comes to.

A network gets its subnets when it is created, in the same transaction, so that its user hears at once when there are none left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from services.dispatcher.core.control.answers import Answer
from services.dispatcher.core.control.refs import find_named
from services.dispatcher.core.pools import PoolsExhausted, ranges_for
from services.kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Problem
from services.kit.messages.control import Filters
from services.kit.messages.networks import CreateNetworkRequest, RemoveNetworkRequest
from services.kit.model.ids import ENTROPY_BYTES, NetworkId, form_id
from services.kit.model.network_rules import OVERLAY
from services.kit.model.objects import Network
from services.kit.model.specs import IpamConfig, ServiceSpec
from services.kit.model.subnets import overlap
from services.kit.model.validate import network_problems
from services.kit.state.addresses import held_by
from services.kit.state.checks import is_attached, networks_of
from services.kit.state.tables import Table
from services.kit.state.transaction import create, remove
from services.kit.state.view import View

DOCKER = "docker"
SHOWN_MAX = 5

_replace = msgspec.structs.replace


def create_network(view: View, request: CreateNetworkRequest, fresh_id: NetworkId) -> Answer:
    """Return the write that makes a network with its subnets; none when this very request has made it already."""
    spec = request.spec
    problems = (*network_problems(spec), *_overlapping(view, spec.ipam))
    if problems:
        raise InvalidArgument.of(problems)
    network_id = _id_for_request(request.request_id) if request.request_id else fresh_id
    known = view.networks.get(network_id)
    if known is not None and request.request_id:
        return Answer(thing=known)
    holder = next((each for each in view.networks.values() if each.spec.ingress), None)
    if spec.ingress and holder is not None:
        raise AlreadyExists(f"there is an ingress network already: {holder.spec.annotations.name!r}")
    try:
        ipam = ranges_for(view, spec)
    except PoolsExhausted:
        hint = "name a subnet, remove networks, or give the cluster more pools (swarmctl cluster update)"
        raise FailedPrecondition(f"no subnet is left in the default address pools; {hint}") from None
    network = Network(id=network_id, spec=spec, ipam=ipam)
    return Answer(ops=(create(network),), thing=network)


def remove_network(view: View, request: RemoveNetworkRequest) -> Answer:
    """Return the write that removes a network; refused while anything uses it."""
    network = find_network(view, request.network_id)
    name = network.spec.annotations.name
    if network.spec.ingress:
        raise FailedPrecondition(f"network {name!r} is predefined: published ports belong to it")
    users = sorted(
        service.spec.annotations.name for service in view.services.values() if network.id in networks_of(service)
    )
    if users:
        more = ", …" if len(users) > SHOWN_MAX else ""
        raise FailedPrecondition(f"network {name!r} is used by: {', '.join(users[:SHOWN_MAX])}{more}")
    left = sum(
        any(each.network_id == network.id for each in held_by(task)) and is_attached(view, task)
        for task in view.tasks.values()
    )
    if left:
        raise FailedPrecondition(f"network {name!r} still has {left} tasks of an earlier version of their service")
    return Answer(ops=(remove(network),), thing=network)


def find_network(view: View, ref: str) -> Network:
    """Return the network that is meant by id, name or prefix of an id."""
    named = next((each for each in view.networks.values() if each.spec.annotations.name.lower() == ref.lower()), None)
    return find_named(Table.NETWORK, view.networks, named, ref, lambda each: each.spec.annotations.name)


def list_networks(view: View, filters: Filters) -> tuple[Network, ...]:
    """Return networks, by name."""
    found = [each for each in view.networks.values() if _is_asked(each, filters)]
    return tuple(sorted(found, key=lambda each: each.spec.annotations.name))


def with_network_ids(view: View, spec: ServiceSpec) -> ServiceSpec:
    """Return a service's spec with its networks by id; one that does not exist stays as it is, for ``unusable`` to tell."""
    if not spec.task.networks:
        return spec

    def resolved(target: NetworkId) -> NetworkId:
        try:
            return find_network(view, target).id
        except (NotFound, FailedPrecondition):
            return target

    networks = tuple(_replace(each, target=resolved(each.target)) for each in spec.task.networks)
    return _replace(spec, task=_replace(spec.task, networks=networks))


def unusable(view: View, spec: ServiceSpec) -> Iterable[Problem]:
    """Yield what is wrong with the networks of a service, as far as only the store can show it."""
    for index, attachment in enumerate(spec.task.networks):
        path = f"task.networks[{index}].target"
        network = view.networks.get(attachment.target)
        if network is None:
            yield Problem(path=path, reason="there is no such network", value=attachment.target)
            continue
        name = network.spec.annotations.name
        if network.spec.ingress:
            hint = "publish ports instead"
            yield Problem(path=path, reason="nothing is attached to the ingress network", value=name, hint=hint)
        elif network.spec.driver.name == OVERLAY and spec.task.driver == DOCKER:
            reason = "the docker driver does not carry overlay networks between nodes"
            hint = "make a network of the driver bridge for tasks of one node, and publish ports for the others"
            yield Problem(path=path, reason=reason, value=name, hint=hint)


def _overlapping(view: View, ipam: tuple[IpamConfig, ...]) -> Iterable[Problem]:
    for index, config in enumerate(ipam):
        for other in view.networks.values():
            try:
                shared = overlap((config,), other.ipam)
            except ValueError:
                return  # told already: it is no range at all
            if shared is not None:
                name = other.spec.annotations.name
                reason = f"overlaps {shared[1]} of network {name!r}"
                yield Problem(path=f"ipam[{index}].subnet", reason=reason, value=config.subnet)


def _is_asked(network: Network, filters: Filters) -> bool:
    name, labels = network.spec.annotations.name, network.spec.annotations.labels
    if filters.names and name not in filters.names:
        return False
    if filters.name_prefixes and not any(name.startswith(prefix) for prefix in filters.name_prefixes):
        return False
    if filters.id_prefixes and not any(network.id.startswith(prefix) for prefix in filters.id_prefixes):
        return False
    return all(key in labels and (not value or labels[key] == value) for key, value in filters.labels.items())


def _id_for_request(request_id: str) -> NetworkId:
    """Return the id of what a request with this id makes, so that asking twice makes one, whoever leads."""
    return NetworkId(form_id(hashlib.sha256(f"network/{request_id}".encode()).digest()[:ENTROPY_BYTES]))
