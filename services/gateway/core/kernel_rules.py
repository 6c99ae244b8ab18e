"""Rules with which the kernel itself takes new connections of published ports to tasks of this node (nftables).

Pure: the route table goes in, the text for ``nft -f -`` comes out. What must stay true: a draining task is in no rule; the whole table of
a node is replaced in one transaction; only tasks of this node are named, because the answer of another one would not come back this
way with the client's address kept. Where no rule fits, the connection reaches the gateway's own listener, which is always open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from services.kit.messages.routes import Backend, Route
from services.kit.model.states import BalanceAlgorithm, DataPlane, Protocol

PRIORITY = -110
"""Before the chains of others that rewrite destinations (-100)."""
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - read, not bound
_V4, _V6 = 4, 6


def table_name(node_id: str) -> str:
    """Return the name of the node's table; several nodes of a machine each have one."""
    return "swarmbus_" + re.sub(r"[^a-zA-Z0-9]", "_", node_id)


def wanted(routes: Iterable[Route]) -> list[Route]:
    """Return the routes that ask for the kernel."""
    found = [route for route in routes if route.ingress.plane is DataPlane.NFT and route.protocol is Protocol.TCP]
    return sorted(found, key=lambda route: route.published_port)


def here(route: Route, node_id: str) -> Sequence[Backend]:
    """Return a route's tasks on this node that the kernel can lead to; the way to loopback is closed to it."""
    return [each for each in route.backends if each.node_id == node_id and not ip_address(each.addr).is_loopback]


def script(routes: Iterable[Route], node_id: str, host: str) -> str:
    """Return what makes the kernel do all that these routes ask for, and nothing else."""
    name = table_name(node_id)
    rules = [rule for route in wanted(routes) for rule in _rules(route, node_id, host)]
    lines = [f"table inet {name}", f"delete table inet {name}"]
    if rules:
        lines += [
            f"table inet {name} {{",
            "  chain prerouting {",
            f"    type nat hook prerouting priority {PRIORITY}; policy accept;",
            *(f"    {rule}" for rule in rules),
            "  }",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _rules(route: Route, node_id: str, host: str) -> Iterator[str]:
    """Return a rule for each family in which clients may come and tasks are there."""
    if route.nodes is not None and node_id not in route.nodes:
        return
    open_tasks = [backend for backend in here(route, node_id) if not backend.draining]
    asked = route.ingress.addresses or (() if host in _EVERYWHERE else (host,))
    for version, family in ((_V4, "ip"), (_V6, "ip6")):
        ends = [f"{each.addr} . {each.port}" for each in open_tasks if ip_address(each.addr).version == version]
        addresses = [address for address in asked if ip_address(address).version == version]
        if not ends or (asked and not addresses):
            continue
        where = (
            f"{family} daddr {{ {', '.join(addresses)} }}"
            if asked
            else f"meta nfproto ipv{version} fib daddr type local"
        )
        choice = _choice(route.ingress.algorithm, family, len(ends))
        places = ", ".join(f"{place} : {end}" for place, end in enumerate(sorted(ends)))
        yield f"{where} tcp dport {route.published_port} dnat {family} to {choice} map {{ {places} }}"


def _choice(algorithm: BalanceAlgorithm, family: str, count: int) -> str:
    """Return how the kernel chooses: it knows of no load, so what balances by it becomes chance."""
    match algorithm:
        case BalanceAlgorithm.MAGLEV:
            return f"jhash {family} saddr mod {count}"
        case BalanceAlgorithm.ROUND_ROBIN:
            return f"numgen inc mod {count}"
        case _:
            return f"numgen random mod {count}"
