"""The index of the fleet: rows, one a node, and everything a plan asks of them as sets of rows.

Fed with nodes (``put``, ``drop``) and with what tasks hold (``occupy`` and ``vacate`` their resources, ``count`` and ``discount`` them);
read by the filters and planners of this package. Planners change it at once: a planned task counts as placed until its
placement is undone. What must stay true: after any sequence of events the index equals one built from the same nodes and tasks.
No event costs a pass over all nodes or all tasks.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from services.dispatcher.core.fleet.account import Account, Path
from services.dispatcher.core.fleet.bands import Bands
from services.dispatcher.core.fleet.bits import Bits, bits_of, rows_of
from services.dispatcher.core.fleet.dimension import Dimension
from services.dispatcher.core.fleet.facts import facts_of
from services.dispatcher.core.fleet.failures import Failures
from services.dispatcher.core.fleet.group import CPU, GENERIC, MEMORY, Group, HostPort
from services.dispatcher.core.fleet.levels import Levels
from services.dispatcher.core.fleet.marks import Marks
from services.dispatcher.core.fleet.postings import Addresses, Postings
from services.dispatcher.core.fleet.stocks import Stock
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.objects import Node
from services.kit.model.specs import Resources
from services.kit.model.states import Availability, NodeState

_BLOCK = 64
"""Rows are made so many at a time, in shuffled order, so that ties do not follow the order in which nodes joined."""
LOAD_STEPS = 64
"""Levels of load: shares of the resource that is used most."""


def is_ready(node: Node) -> bool:
    """Tell whether a node may get tasks."""
    return node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE


class Fleet:
    """All nodes and what is held on them."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self._overcommit = (1.0, 1.0)
        """How many times their processors and memory nodes promise."""
        self.size = 0
        """Rows there are, in use or not."""
        self._spare_rows: list[int] = []
        self.row_of: dict[NodeId, int] = {}
        self.node_ids: list[NodeId] = []
        self.nodes: list[Node | None] = []
        """By row; None for a row without a node, which stays as long as tasks are held on it."""
        self.holders: list[int] = []
        """Tasks that occupy each row."""
        self.known: Bits = 0
        """Rows with a node."""
        self.ready: Bits = 0
        """Rows whose node may get tasks."""
        self.postings = Postings()
        self.addresses = Addresses()
        self.dimensions = {CPU: Dimension(0), MEMORY: Dimension(0)}
        self.stocks: dict[tuple[int, str], Stock] = {}
        self.totals = Levels()
        """Rows by their number of tasks."""
        self.loads: Levels | None = None
        """Rows by load; kept from the first plan on that asks for it."""
        self.bands: Bands | None = None
        """What is used by priority; kept from the first preemption on."""
        self.accounts: dict[ServiceId, Account] = {}
        self.services: dict[str, ServiceId] = {}
        """Services that have tasks, by name."""
        self.ports: Marks[HostPort] = Marks()
        self.shunned: Marks[str] = Marks()
        """Rows with a task that wants no task of the named service beside it."""
        self.sought: set[str] = set()
        """Services beside which somebody waits to be: their tasks improve a row."""
        self.failures = Failures()
        self.facts_epoch = 0
        """Moves with every change of what nodes are."""
        self.improved: Bits = 0
        """Rows that may take something now which they could not before; whoever looks at it sets it back."""

    # -- nodes

    def put(self, node: Node) -> None:
        """Take a node in, or what became of it; what is held on it stays."""
        row = self.row_of.get(node.id)
        if row is None:
            row = self._new_row(node.id)
        old = self.nodes[row]
        if old is not node:
            self._state_facts(row, old, node)
            self._offer(row, node)
            self.nodes[row] = node
            self.known |= 1 << row
            self._set_ready(row, node)

    def drop(self, node_id: NodeId) -> None:
        """Take a node out; what is held on it counts again if it returns."""
        row = self.row_of.get(node_id)
        old = None if row is None else self.nodes[row]
        if row is None or old is None:
            return
        self._state_facts(row, old, None)
        self._offer(row, None)
        self.nodes[row] = None
        self.known ^= 1 << row
        self.ready &= ~(1 << row)
        self.improved &= ~(1 << row)
        self.failures.forget_row(row)
        self._retire(row)

    def promise(self, cpu: float, memory: float) -> None:
        """Let nodes promise a multiple of what they have."""
        if self._overcommit == (cpu, memory):
            return
        self._overcommit = (cpu, memory)
        for row in rows_of(self.known):
            self._offer(row, self.nodes[row])
        self.improved |= self.known

    def promised(self, resources: Resources) -> tuple[int, int]:
        """Return the processors and memory that may be reserved of these resources."""
        cpu, memory = self._overcommit
        return round(resources.nano_cpus * cpu), round(resources.memory_bytes * memory)

    def new_rows(self, node_ids: Sequence[NodeId]) -> list[int]:
        """Return rows for the nodes of an index that is empty; the caller fills them in."""
        assert not self.row_of, "only an empty index is filled at once"
        self._grow(_BLOCK * -(-len(node_ids) // _BLOCK))
        rows = [self._spare_rows.pop() for _ in node_ids]
        self.row_of.update(zip(node_ids, rows, strict=True))
        for row, node_id in zip(rows, node_ids, strict=True):
            self.node_ids[row] = node_id
        self.totals.join_all(rows)
        return rows

    def row_for(self, node_id: NodeId) -> int:
        """Return the row of a node, known or not yet known."""
        row = self.row_of.get(node_id)
        return self._new_row(node_id) if row is None else row

    # -- what tasks hold

    def occupy(self, group: Group, row: int, tasks: int = 1) -> None:
        """Give tasks their resources and ports."""
        self.holders[row] += tasks
        for need in group.needs:
            dimension = self.dimension(need.resource)
            dimension.set(row, dimension.free[row] - tasks * need.amount)
        for port in group.host_ports:
            self.ports.add(port, row, tasks)
        self._note_use(group, row, tasks)
        if tasks < 0:
            self.improved |= 1 << row & self.known
            self._retire(row)

    def vacate(self, group: Group, row: int) -> None:
        """Take a task's resources and ports back."""
        self.occupy(group, row, -1)

    def count(self, group: Group, row: int, tasks: int = 1) -> None:
        """Count tasks as wanted ones of the row."""
        self.totals.move(row, self.totals.at[row] + tasks)
        account = self.account_of(group)
        account.add(row, tasks)
        for name in group.anti_affinity:
            self.shunned.add(name, row, tasks)
        if tasks < 0 or group.name in self.sought:
            self.improved |= 1 << row & self.known
        if not account.tasks:
            self.close_if_empty(group)

    def discount(self, group: Group, row: int) -> None:
        """Count a task out."""
        self.count(group, row, -1)

    def take_one_each(self, group: Group, rows: list[int], bits: Bits, total: int | None, before: int | None) -> None:
        """Occupy and count one task on each of many rows; ``total`` and ``before`` are what they all have, where that is known."""
        for row in rows:
            self.holders[row] += 1
        for need in group.needs:
            self.dimension(need.resource).take_from_all(rows, need.amount)
        if total is not None:
            self.totals.raise_all(rows, bits, total)
        else:
            for row in rows:
                self.totals.move(row, self.totals.at[row] + 1)
        self.account_of(group).add_one_each(rows, bits, before)
        if group.name in self.sought:
            self.improved |= bits
        if group.host_ports or group.anti_affinity or self.loads is not None or self.bands is not None:
            for row in rows:
                self._mark(group, row)

    def take_many(self, group: Group, rows: list[int], tasks: list[int]) -> None:
        """Occupy and count some tasks on each of many rows."""
        for row, count in zip(rows, tasks, strict=True):
            self.holders[row] += count
        for need in group.needs:
            self.dimension(need.resource).take_many(rows, [need.amount * count for count in tasks])
        at = self.totals.at
        self.totals.move_many(rows, [at[row] + count for row, count in zip(rows, tasks, strict=True)])
        self.account_of(group).add_many(rows, tasks)
        if group.name in self.sought:
            self.improved |= bits_of(rows)
        if group.host_ports or group.anti_affinity or self.loads is not None or self.bands is not None:
            for row, count in zip(rows, tasks, strict=True):
                self._mark(group, row, count)

    def _mark(self, group: Group, row: int, tasks: int = 1) -> None:
        for port in group.host_ports:
            self.ports.add(port, row, tasks)
        for name in group.anti_affinity:
            self.shunned.add(name, row, tasks)
        self._note_use(group, row, tasks)

    def close_if_empty(self, group: Group) -> None:
        """Forget the account of a service that has no task anywhere."""
        account = self.accounts.get(group.service)
        if account is None or account.tasks:
            return
        del self.accounts[group.service]
        if self.services.get(group.name) == group.service:
            del self.services[group.name]

    # -- reading

    def dimension(self, resource: str) -> Dimension:
        """Return a resource's dimension, made when it is first heard of."""
        dimension = self.dimensions.get(resource)
        if dimension is None:
            dimension = self.dimensions[resource] = Dimension(self.size)
        return dimension

    def account_of(self, group: Group) -> Account:
        """Return the account of a group's service, opened when there is none."""
        account = self.accounts.get(group.service)
        if account is None:
            account = self.accounts[group.service] = Account()
            if group.name:
                self.services[group.name] = group.service
        return account

    def occupied_by(self, name: str) -> Bits:
        """Return the rows with a task of the named service."""
        service = self.services.get(name)
        account = None if service is None else self.accounts.get(service)
        return 0 if account is None else account.occupied

    def labels(self, row: int, keys: Iterable[str]) -> Path:
        """Return a row's values under some label keys, empty where it has none."""
        node = self.nodes[row]
        if node is None:
            return tuple("" for _ in keys)
        families = {"node": node.spec.annotations.labels, "engine": node.description.engine.labels}
        parted = (key.partition(".labels.") for key in keys)
        return tuple(families.get(family, {}).get(name, "") for family, _, name in parted)

    def load_of(self, row: int) -> int:
        """Return the share of the most used resource of a row, in steps; a row that has nothing to give is full."""
        highest = 0
        for resource in (CPU, MEMORY):
            dimension = self.dimensions[resource]
            capacity = dimension.capacity[row]
            used = capacity - dimension.free[row]
            highest = max(highest, LOAD_STEPS * used // capacity if capacity > 0 else LOAD_STEPS * (used > 0))
        return min(highest, 2 * LOAD_STEPS)

    def loaded(self) -> Levels:
        """Return the rows by load, and keep them so from now on."""
        if self.loads is None:
            self.loads = Levels()
            self.loads.grow(self.size)
            for row in rows_of(self.totals.members):
                self.loads.join(row, self.load_of(row))
        return self.loads

    # -- inside

    def _new_row(self, node_id: NodeId) -> int:
        if not self._spare_rows:
            self._grow(self.size + _BLOCK)
        row = self._spare_rows.pop()
        self.row_of[node_id] = row
        self.node_ids[row] = node_id
        self.totals.join(row)
        if self.loads is not None:
            self.loads.join(row, self.load_of(row))
        return row

    def _grow(self, size: int) -> None:
        fresh = list(range(self.size, size))
        self._rng.shuffle(fresh)
        self._spare_rows = fresh
        self.size = size
        self.node_ids.extend(NodeId("") for _ in fresh)
        self.nodes.extend(None for _ in fresh)
        self.holders.extend(0 for _ in fresh)
        self.totals.grow(size)
        for dimension in self.dimensions.values():
            dimension.grow(size)
        if self.loads is not None:
            self.loads.grow(size)

    def _retire(self, row: int) -> None:
        """Give a row back that has neither node nor tasks."""
        if self.nodes[row] is not None or self.holders[row]:
            return
        self.totals.leave(row)
        if self.loads is not None:
            self.loads.leave(row)
        for dimension in self.dimensions.values():
            dimension.set(row, 0)
        del self.row_of[self.node_ids[row]]
        self._spare_rows.append(row)

    def _set_ready(self, row: int, node: Node) -> None:
        bit = 1 << row
        if is_ready(node):
            self.ready |= bit
            self.improved |= bit
        else:
            self.ready &= ~bit

    def _state_facts(self, row: int, old: Node | None, new: Node | None) -> None:
        """Change what is known of a row from one node to the next."""
        before = set() if old is None else set(facts_of(old))
        after = set() if new is None else set(facts_of(new))
        for key, value in before - after:
            self.postings.discard(key, value, row)
        for key, value in after - before:
            self.postings.add(key, value, row)
        old_addr = "" if old is None else old.status.addr
        new_addr = "" if new is None else new.status.addr
        if old_addr != new_addr:
            self.addresses.discard(old_addr, row)
            self.addresses.add(new_addr, row)
        if before != after:
            self.facts_epoch += 1

    def _offer(self, row: int, node: Node | None) -> None:
        """Change what a row has to give."""
        resources = None if node is None else node.description.resources
        cpus, memory_bytes = (0, 0) if resources is None else self.promised(resources)
        self.dimensions[CPU].offer(row, cpus)
        self.dimensions[MEMORY].offer(row, memory_bytes)
        offered = {} if resources is None else {resource.kind: resource for resource in resources.generic}
        old = self.nodes[row]
        held = () if old is None else [resource.kind for resource in old.description.resources.generic]
        for kind in {*offered, *held}:
            self.stock(row, kind).offer(offered.get(kind))
            self.restock(row, kind)
        if self.loads is not None:
            self.loads.move(row, self.load_of(row))

    def _note_use(self, group: Group, row: int, tasks: int) -> None:
        """Keep what is kept only since somebody asked for it."""
        if self.loads is not None:
            self.loads.move(row, self.load_of(row))
        if self.bands is not None:
            self.bands.add(group, row, tasks)

    # -- generic resources

    def stock(self, row: int, kind: str) -> Stock:
        """Return what a row has of a kind of generic resource."""
        stock = self.stocks.get((row, kind))
        if stock is None:
            stock = self.stocks[row, kind] = Stock()
        return stock

    def restock(self, row: int, kind: str) -> None:
        """Make the count of a kind say what its stock says."""
        stock = self.stocks[row, kind]
        dimension = self.dimension(GENERIC + kind)
        dimension.set(row, stock.free)
        if stock.idle:
            del self.stocks[row, kind]
