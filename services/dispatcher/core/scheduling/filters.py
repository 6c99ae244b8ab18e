"""The filters, in SwarmKit's order, each able to say how many nodes it refused, in SwarmKit's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.dispatcher.core.scheduling.demand import Demand
from services.dispatcher.core.scheduling.rows import Row
from services.kit.model.constraints import satisfies
from services.kit.model.specs import Platform
from services.kit.model.states import Availability, NodeState

NO_SUITABLE_NODE = "no suitable node"
_ALIASES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason why a node may not get a task."""

    passes: Callable[[Row, Demand], bool]
    one: str
    many: str
    """Explanation with ``{}`` for the number of nodes."""

    def explain(self, nodes: int) -> str:
        """Say how many nodes were refused."""
        return self.one if nodes == 1 else self.many.format(nodes)


def _is_ready(row: Row, demand: Demand) -> bool:
    node = row.node
    return node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE


def _has_room(row: Row, demand: Demand) -> bool:
    return row.has_room(demand)


def _has_driver(row: Row, demand: Demand) -> bool:
    return demand.driver in row.node.description.drivers


def _meets_constraints(row: Row, demand: Demand) -> bool:
    return not demand.constraints or satisfies(row.node, demand.constraints)


def _has_platform(row: Row, demand: Demand) -> bool:
    if not demand.platforms:
        return True
    mine = row.node.description.platform
    if mine == Platform():
        return False
    return any(_matches(wanted, mine) for wanted in demand.platforms)


def _matches(wanted: Platform, mine: Platform) -> bool:
    same_os = not wanted.os or wanted.os.lower() == mine.os.lower()
    return same_os and (not wanted.architecture or _arch(wanted.architecture) == _arch(mine.architecture))


def _arch(name: str) -> str:
    return _ALIASES.get(name.lower(), name.lower())


def _ports_are_free(row: Row, demand: Demand) -> bool:
    return not any(row.ports[port] for port in demand.host_ports)


def _is_below_max(row: Row, demand: Demand) -> bool:
    return not demand.max_replicas or row.by_service[demand.service] < demand.max_replicas


FILTERS = (
    Filter(_is_ready, "1 node not available for new tasks", "{} nodes not available for new tasks"),
    Filter(_has_room, "insufficient resources on 1 node", "insufficient resources on {} nodes"),
    Filter(_has_driver, "missing plugin on 1 node", "missing plugin on {} nodes"),
    Filter(
        _meets_constraints,
        "scheduling constraints not satisfied on 1 node",
        "scheduling constraints not satisfied on {} nodes",
    ),
    Filter(_has_platform, "unsupported platform on 1 node", "unsupported platform on {} nodes"),
    Filter(_ports_are_free, "host-mode port already in use on 1 node", "host-mode port already in use on {} nodes"),
    Filter(_is_below_max, "max replicas per node limit exceed", "max replicas per node limit exceed"),
)
CHANGING = (FILTERS[1], FILTERS[5], FILTERS[6])
"""Those whose verdict changes as tasks are placed."""


def refusal(row: Row, demand: Demand) -> Filter | None:
    """Return the first filter that refuses a node, None when it may have the task."""
    return next((each for each in FILTERS if not each.passes(row, demand)), None)


def still_fits(row: Row, demand: Demand) -> bool:
    """Tell whether a node that passed may have another task."""
    return all(each.passes(row, demand) for each in CHANGING)


def explain(rows: Iterable[Row], demand: Demand) -> str:
    """Say why no node may have the task: the refusing filters with their counts, most nodes first."""
    counts = Counter(refused for row in rows if (refused := refusal(row, demand)) is not None)
    ranked = sorted(counts, key=lambda each: (-counts[each], FILTERS.index(each)))
    reasons = "; ".join(each.explain(counts[each]) for each in ranked)
    return f"{NO_SUITABLE_NODE} ({reasons})" if reasons else NO_SUITABLE_NODE
