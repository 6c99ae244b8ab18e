"""The index of a whole fleet at once: what a new leader does with the nodes it finds.

The same as putting one node after the other, but every set is made once instead of growing row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.dispatcher.core.fleet.bits import bits_of
from services.dispatcher.core.fleet.facts import Fact, facts_of
from services.dispatcher.core.fleet.fleet import Fleet, is_ready
from services.dispatcher.core.fleet.group import CPU, MEMORY
from services.kit.model.objects import Node


def build(seed: int, nodes: Sequence[Node]) -> Fleet:
    """Return the index of these nodes, nothing held on any of them."""
    fleet = Fleet(seed)
    rows = fleet.new_rows([node.id for node in nodes])
    facts: dict[Fact, list[int]] = {}
    for row, node in zip(rows, nodes, strict=True):
        fleet.nodes[row] = node
        for fact in facts_of(node):
            found = facts.get(fact)
            if found is None:
                facts[fact] = [row]
            else:
                found.append(row)
        fleet.addresses.add(node.status.addr, row)
    for (key, value), having in facts.items():
        fleet.postings.add_all(key, value, having)
    fleet.known = bits_of(rows)
    fleet.ready = fleet.improved = bits_of(row for row, node in zip(rows, nodes, strict=True) if is_ready(node))
    offers = [node.description.resources for node in nodes]
    promised = [fleet.promised(offer) for offer in offers]
    fleet.dimensions[CPU].offer_all(rows, [cpus for cpus, _ in promised])
    fleet.dimensions[MEMORY].offer_all(rows, [memory_bytes for _, memory_bytes in promised])
    for row, offer in zip(rows, offers, strict=True):
        for resource in offer.generic:
            fleet.stock(row, resource.kind).offer(resource)
            fleet.restock(row, resource.kind)
    return fleet
