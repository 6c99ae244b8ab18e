"""Random fleets and groups, and what the filters and the choice of a node mean, said from raw data: the oracle of the scheduler's tests.

Nothing here uses the engine's index. ``Truth`` holds plain nodes and plain tasks; ``greedy`` places one task after the other by looking
at every node each time, which is optimal for evening out, also down a tree (the cost of one more task only rises).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from services.dispatcher.core.fleet.build import build
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import CPU, GENERIC, MEMORY, Group, needs_of
from services.dispatcher.core.fleet.ledger import Ledger, Placement
from services.kit.model.constraints import parse_constraints, satisfies
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import EngineDescription, Node, NodeDescription, NodeStatus
from services.kit.model.specs import Annotations, GenericResource, NodeSpec, Platform, Resources
from services.kit.model.states import Availability, NodeState, PlacementStrategy, Protocol, Role

_replace = msgspec.structs.replace
CONSTRAINTS = (
    (),
    (),
    ("node.labels.dc == A",),
    ("node.labels.dc != b",),
    ("engine.labels.rack == r3", "node.labels.dc != c"),
    ("node.labels.zone == x",),
    ("node.labels.zone != x",),
    ("node.role == manager",),
    ("node.ip == 10.0.0.0/29",),
    ("node.ip != 10.0.0.1",),
    ("node.platform.os == Linux", "node.hostname != host-2"),
    ("node.ID == n3",),
    ("node.size == 3",),
    ("node.ip == nowhere",),
)
PREFERENCES = (
    (),
    (),
    ("node.labels.dc",),
    ("node.labels.dc", "engine.labels.rack"),
    ("node.labels.zone",),
)
GENERIC_OFFERS = (
    (),
    (GenericResource(kind="gpu", count=1),),
    (GenericResource(kind="gpu", count=3),),
    (GenericResource(kind="gpu", names=("u1", "u2", "u3")),),
    (GenericResource(kind="gpu", names=("u2", "u4")),),
)


def random_node(rng: random.Random, number: int) -> Node:
    """Return a node of any kind."""
    labels = {"dc": value} if (value := rng.choice(("a", "A", "b", "c", ""))) else {}
    if rng.random() < 0.2:
        labels["zone"] = "x"
    generic = rng.choice(GENERIC_OFFERS)
    return Node(
        id=NodeId(f"n{number}"),
        spec=NodeSpec(
            annotations=Annotations(labels=labels),
            availability=rng.choice((Availability.ACTIVE,) * 12 + (Availability.PAUSE, Availability.DRAIN)),
        ),
        description=NodeDescription(
            hostname=f"host-{number}",
            platform=rng.choice(
                (Platform(architecture="x86_64", os="linux"), Platform(architecture="arm64", os="linux"))
            ),
            resources=Resources(
                nano_cpus=rng.choice((0, 10, 40, 100, 400)),
                memory_bytes=rng.choice((0, 4, 40, 100, 400)),
                generic=generic,
            ),
            engine=EngineDescription(name="e", labels={"rack": rng.choice(("r1", "r2", "R3"))}),
            drivers=rng.choice((("fake",), ("fake", "process"))),
        ),
        status=NodeStatus(state=rng.choice((NodeState.READY,) * 9 + (NodeState.DOWN,)), addr=f"10.0.0.{number % 20}"),
        role=rng.choice((Role.WORKER, Role.WORKER, Role.MANAGER)),
    )


def random_group(rng: random.Random, version: int) -> Group:
    """Return a group of any kind, of one of a few services."""
    name = rng.choice("stuv")
    others = [other for other in "stuv" if other != name]
    amounts = {CPU: rng.choice((0, 0, 1, 3, 7, 20)), MEMORY: rng.choice((0, 0, 1, 5, 9))}
    plain = rng.random() < 0.5
    if rng.random() < 0.15:
        amounts[GENERIC + "gpu"] = rng.choice((1, 1, 2))
    return Group(
        service=ServiceId(f"id-{name}"),
        version=version,
        name=name,
        needs=needs_of(amounts),
        drivers=rng.choice(((), (), (), ("/driver/fake",), ("/driver/fake", "/driver/process"))),
        constraints=() if plain else parse_constraints(rng.choice(CONSTRAINTS)),
        platforms=rng.choice(
            ((), (), (Platform(architecture="aarch64"),), (Platform(os="linux", architecture="amd64"),))
        ),
        host_ports=()
        if plain
        else rng.choice(((), (), ((80, Protocol.TCP),), ((80, Protocol.TCP), (443, Protocol.TCP)))),
        max_replicas=0 if plain else rng.choice((0, 0, 1, 2)),
        preferences=rng.choice(PREFERENCES),
        affinity=tuple(rng.sample(others, 1)) if rng.random() < 0.05 else (),
        anti_affinity=tuple(rng.sample(others, 1)) if rng.random() < 0.1 else (),
        strategy=rng.choice((PlacementStrategy.SPREAD,) * 4 + (PlacementStrategy.LOAD, PlacementStrategy.PACK)),
    )


@dataclass(slots=True)
class Held:
    """One task: what it asks for, where it is and what it was dealt."""

    group: Group
    node: NodeId
    counted: bool = True
    task: TaskId | None = None
    dealt: tuple[GenericResource, ...] = ()


@dataclass(slots=True)
class Truth:
    """Nodes and tasks as plain lists."""

    nodes: dict[NodeId, Node] = field(default_factory=dict)
    by_node: dict[NodeId, list[Held]] = field(default_factory=dict)
    failures: dict[tuple[ServiceId, int], dict[NodeId, int]] = field(default_factory=dict)

    @property
    def held(self) -> list[Held]:
        """All tasks."""
        return [held for tasks in self.by_node.values() for held in tasks]

    def on(self, node: NodeId) -> list[Held]:
        """Return the tasks of a node."""
        return self.by_node.get(node, [])

    def add(self, held: Held) -> None:
        """Take a task in."""
        self.by_node.setdefault(held.node, []).append(held)

    def remove(self, held: Held) -> None:
        """Forget a task."""
        self.by_node[held.node].remove(held)

    def copy(self) -> Truth:
        """Return the same nodes and tasks to place more tasks on; only failures that count are kept."""
        failing = {key: {n: times for n, times in nodes.items() if times >= 5} for key, nodes in self.failures.items()}
        return Truth(dict(self.nodes), {node: list(tasks) for node, tasks in self.by_node.items()}, failing)

    def free(self, node: NodeId, resource: str) -> int:
        """Return how much of a resource is left on a node."""
        resources = self.nodes[node].description.resources
        if resource in {CPU, MEMORY}:
            offered = resources.nano_cpus if resource == CPU else resources.memory_bytes
            return offered - sum(held.group.amount(resource) for held in self.on(node))
        offers = [each for each in resources.generic if GENERIC + each.kind == resource]
        dealt = [each for held in self.on(node) for each in held.dealt if GENERIC + each.kind == resource]
        names = {name for each in dealt for name in each.names}
        if offers and offers[0].names:
            return len(set(offers[0].names) - names)
        return sum(each.count for each in offers) - sum(each.count for each in dealt if not each.names)

    def refusal(self, node: Node, group: Group) -> int | None:
        """Return the number of the first filter that refuses a node, None when it may have a task of the group."""
        here = self.on(node.id)
        names = {held.group.name for held in here if held.counted}
        checks = (
            node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE,
            all(self.free(node.id, need.resource) >= need.amount for need in group.needs),
            all(driver.removeprefix("/driver/") in node.description.drivers for driver in group.drivers),
            satisfies(node, group.constraints),
            not group.platforms or any(_runs(wanted, node.description.platform) for wanted in group.platforms),
            not any(port in held.group.host_ports for held in here for port in group.host_ports),
            not group.max_replicas or self.tasks(group.service, node.id) < group.max_replicas,
            names.issuperset(group.affinity)
            and names.isdisjoint(group.anti_affinity)
            and not any(group.name in held.group.anti_affinity for held in here if held.counted),
        )
        return next((number for number, passed in enumerate(checks) if not passed), None)

    def tasks(self, service: ServiceId, node: NodeId) -> int:
        """Return how many counted tasks of a service a node has."""
        return sum(held.counted and held.group.service == service for held in self.on(node))

    def total(self, node: NodeId) -> int:
        """Return how many counted tasks a node has."""
        return sum(held.counted for held in self.on(node))

    def deal(self, group: Group, node: NodeId) -> tuple[GenericResource, ...]:
        """Return what a task would be dealt, of devices that nobody has."""
        dealt: list[GenericResource] = []
        for offer in self.nodes[node].description.resources.generic:
            amount = group.amount(GENERIC + offer.kind)
            taken = {name for held in self.on(node) for each in held.dealt for name in each.names}
            free = [name for name in offer.names if name not in taken][:amount]
            if amount:
                dealt.append(GenericResource(kind=offer.kind, count=amount, names=tuple(free)))
        return tuple(dealt)

    def fitting(self, group: Group) -> list[Node]:
        """Return the nodes that may have a task of the group."""
        return [node for node in self.nodes.values() if self.refusal(node, group) is None]


_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def _runs(wanted: Platform, have: Platform) -> bool:
    def alias(name: str) -> str:
        return _ARCH.get(name, name)

    return (not wanted.os or wanted.os == have.os) and (
        not wanted.architecture or alias(wanted.architecture) == alias(have.architecture)
    )


def label(node: Node, key: str) -> str:
    """Return a node's value under a label key."""
    family, _, name = key.partition(".labels.")
    labels = node.spec.annotations.labels if family == "node" else node.description.engine.labels
    return labels.get(name, "")


def path_counts(truth: Truth, group: Group) -> Counter[tuple[str, ...]]:
    """Return the tasks of a service by branch of the group's tree."""
    counts: Counter[tuple[str, ...]] = Counter()
    for held in truth.held:
        if held.counted and held.group.service == group.service:
            node = truth.nodes.get(held.node)
            path = tuple("" if node is None else label(node, key) for key in group.preferences)
            for depth in range(1, len(path) + 1):
                counts[path[:depth]] += 1
    return counts


def narrowed(truth: Truth, group: Group, nodes: Sequence[Node]) -> Iterable[Node]:
    """Return the nodes of the branch that has the fewest tasks of the service, level by level."""
    counts = path_counts(truth, group)
    for depth in range(1, len(group.preferences) + 1):
        paths = {node.id: tuple(label(node, key) for key in group.preferences[:depth]) for node in nodes}
        least = min(counts[path] for path in paths.values())
        chosen = min(path for path in paths.values() if counts[path] == least)
        nodes = [node for node in nodes if paths[node.id] == chosen]
    return nodes


def greedy(truth: Truth, group: Group, wanted: int) -> list[NodeId]:
    """Place tasks one after the other, looking at every node each time; the truth has them afterwards."""
    placed: list[NodeId] = []
    penalties = truth.failures.get(group.key, {})
    while len(placed) < wanted:
        nodes = truth.fitting(group)
        if not nodes:
            break
        if group.preferences:
            nodes = list(narrowed(truth, group, nodes))
        best = min(
            nodes,
            key=lambda node: (
                penalties.get(node.id, 0),
                truth.tasks(group.service, node.id),
                truth.total(node.id),
                node.id,
            ),
        )
        truth.add(Held(group, best.id, dealt=truth.deal(group, best.id)))
        placed.append(best.id)
    return placed


def rebuilt(truth: Truth, seed: int = 0) -> Ledger:
    """Return index and ledger made anew from the truth, as a new leader makes them."""
    ledger = Ledger(build(seed, list(truth.nodes.values())))
    for held in truth.held:
        assert held.task is not None
        ledger.hold(held.task, held.group, Placement(held.node, held.dealt), counted=held.counted)
    return ledger


def picture_of(fleet: Fleet) -> dict[str, object]:
    """Return all that an index says, by node instead of row, so that two indexes can be compared."""

    def names(bits: int) -> frozenset[str]:
        return frozenset(fleet.node_ids[row] for row in range(fleet.size) if bits >> row & 1)

    rows = dict(fleet.row_of)
    return {
        "known": names(fleet.known),
        "ready": names(fleet.ready),
        "facts": {(key, value): names(bits) for key, value, bits in fleet.postings.entries()},
        "free": {
            (resource, node): amount
            for resource, dimension in fleet.dimensions.items()
            for node, row in rows.items()
            if (amount := dimension.free[row])
        },
        "totals": {node: fleet.totals.at[row] for node, row in rows.items()},
        "holders": {node: fleet.holders[row] for node, row in rows.items()},
        "tasks": {
            service: {fleet.node_ids[row]: count for row, count in account.tasks.items()}
            for service, account in fleet.accounts.items()
        },
        "services": dict(fleet.services),
        "ports": {
            port: {fleet.node_ids[row]: count for row, count in holders.items()}
            for port, holders in fleet.ports.holders().items()
        },
        "stocks": {
            (fleet.node_ids[row], kind): (stock.names, stock.count, stock.names_held, stock.count_held)
            for (row, kind), stock in fleet.stocks.items()
        },
        "shunned": {
            name: {fleet.node_ids[row]: count for row, count in holders.items()}
            for name, holders in fleet.shunned.holders().items()
        },
    }


def check(fleet: Fleet) -> None:
    """Assert that every set of the index says what its plain columns say."""
    for dimension in fleet.dimensions.values():
        dimension.check()
    fleet.totals.check()
    for account in fleet.accounts.values():
        account.check()
        assert account.tasks, "an account is open without tasks"
        branches = account.branches
        if branches is not None and branches.epoch == fleet.facts_epoch:
            counts: Counter[tuple[str, ...]] = Counter()
            for row, tasks in account.tasks.items():
                path = fleet.labels(row, branches.preferences)
                counts.update({path[:depth]: tasks for depth in range(1, len(path) + 1)})
            assert {path: tasks for path, tasks in branches.tasks.items() if tasks} == counts, (
                "branches are out of step"
            )
    fleet.ports.check()
    fleet.shunned.check()
    if fleet.loads is not None:
        fleet.loads.check()
        for row in fleet.row_of.values():
            assert fleet.loads.at[row] == fleet.load_of(row), "a row's load is out of step"
