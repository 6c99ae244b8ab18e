"""The predefined network: makes ``ingress``, the network of published ports, where there is none. Keys are the cluster's id.

The gateways carry it, so nothing is ever attached to it and it has no addresses; it is there for tools that look for it. Its id is made
from the cluster's, so that two leaders make one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.kit.model.ids import ENTROPY_BYTES, NetworkId, form_id
from services.kit.model.network_rules import INGRESS
from services.kit.model.objects import Cluster, Network
from services.kit.model.specs import Annotations, NetworkSpec
from services.kit.state.state import Event
from services.kit.state.tables import Table


class PredefinedNetworks:
    """The loop that makes the ingress network."""

    name = "networks"
    tables = frozenset({Table.CLUSTER, Table.NETWORK})

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look once, as soon as there is a cluster."""
        return () if view.cluster is None else (view.cluster.id,)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """The cluster was made, or the network went."""
        if isinstance(event.object, Cluster):
            return (event.object.id,) if event.old is None else ()
        return () if event.new is not None or view.cluster is None else (view.cluster.id,)

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Make it unless it is there, or somebody has a network of that name."""
        taken = any(
            each.spec.ingress or each.spec.annotations.name.lower() == INGRESS for each in view.networks.values()
        )
        if taken or view.cluster is None:
            return Plan()
        return Plan(steps=tuple(Step(key=key, puts=(ingress_network(view.cluster),)) for key in keys[:1]))


def ingress_network(cluster: Cluster) -> Network:
    """Return the network of published ports."""
    seed = hashlib.sha256(f"network/{INGRESS}/{cluster.id}".encode()).digest()
    return Network(
        id=NetworkId(form_id(seed[:ENTROPY_BYTES])),
        spec=NetworkSpec(annotations=Annotations(name=INGRESS), ingress=True),
    )
