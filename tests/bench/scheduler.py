"""The scheduler: the shapes of SwarmKit's own benchmark through the real store, decisions alone, scaling, latency, bytes.

    python -m tests.bench.scheduler [rounds]

Processor time of this process, with the collector set as the dispatcher sets it. The shapes create nodes and PENDING tasks in the store and then measure what
SwarmKit's benchmark measures: from the scheduler's start until every task is assigned in the store and its events have come back. Here
that is index and queue made from the state, passes over the real desk, transactions encoded, applied by one state and absorbed by
another. SwarmKit's figures beside them are the reference's, taken on the machine of the reference with SwarmKit's own code: wall time,
which holds its pause of 50 ms for more events, and processor time.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec import structs

from services.dispatcher.core.fleet.build import build
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import CPU, GENERIC, MEMORY, Group, needs_of
from services.dispatcher.core.fleet.ledger import Ledger
from services.dispatcher.core.fleet.planner import Plan, plan, undo
from services.dispatcher.core.loops import all_loops
from services.dispatcher.core.planning import Planning
from services.dispatcher.core.scheduling.scheduler import Scheduler
from services.dispatcher.core.specs import template_of
from services.dispatcher.core.statuses import Statuses
from services.dispatcher.shell.memory import collect_rarely
from services.kit.messages.session import StatusUpdate
from services.kit.model.constraints import parse_constraints
from services.kit.model.ids import ClusterId, NodeId, ServiceId, TaskId
from services.kit.model.objects import (
    Cluster,
    EngineDescription,
    Node,
    NodeDescription,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from services.kit.model.specs import Annotations, GenericResource, NodeSpec, Platform, Replicated, Resources, TaskSpec
from services.kit.model.specs import Placement as PlacementSpec
from services.kit.model.states import NodeState, Protocol, TaskState
from services.kit.runtime.ids import SeededIds
from services.kit.state.state import State
from services.kit.state.tables import Table
from services.kit.state.transaction import OPS_MAX, Op, Transaction, create
from services.kit.wire.codec import decode, encode
from tests.support.convergence import a_service_spec

replace = structs.replace
CORE = 10**9
MIB = 1 << 20


@dataclass(frozen=True)
class Shape:
    """One line of SwarmKit's benchmark."""

    nodes: int
    tasks: int
    constrained: bool = False
    wall_ms: float | None = None
    cpu_ms: float | None = None


SHAPES = (
    Shape(1_000, 1_000, wall_ms=137, cpu_ms=152),
    Shape(1_000, 10_000, wall_ms=946, cpu_ms=1400),
    Shape(1_000, 100_000, wall_ms=11_800, cpu_ms=18_600),
    Shape(100_000, 1_000, wall_ms=14_500, cpu_ms=18_100),
    Shape(1_000, 1_000, constrained=True, wall_ms=94, cpu_ms=160),
    Shape(1_000, 10_000, constrained=True, wall_ms=1050, cpu_ms=1507),
    Shape(5_000, 100_000, constrained=True),
)
GO_DECISIONS = {1_000: "24-27", 10_000: "3.6", 50_000: "0.25"}
"""Thousand one-replica decisions a second of SwarmKit's scheduler, by nodes."""


def a_node(number: int, rng: random.Random | None = None) -> Node:
    cpus, memory_gib, gpus = (64, 256, 0) if rng is None else _kind(rng)
    labels = {"dc": f"dc{number % 5}", "rack": f"r{number % 60}", "disk": "ssd" if number % 3 else "hdd"}
    generic = (GenericResource(kind="gpu", count=gpus),) if gpus else ()
    return Node(
        id=NodeId(f"node-{number:06}"),
        spec=NodeSpec(annotations=Annotations(labels=labels | {"zone": f"z{number % 3}"})),
        description=NodeDescription(
            hostname=f"host-{number}",
            platform=Platform(architecture="x86_64", os="linux" if number % 20 else "windows"),
            resources=Resources(nano_cpus=cpus * CORE, memory_bytes=(memory_gib << 10) * MIB, generic=generic),
            engine=EngineDescription(name="fake"),
            drivers=("fake",),
        ),
        status=NodeStatus(state=NodeState.READY, addr=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"),
    )


def _kind(rng: random.Random) -> tuple[int, int, int]:
    return rng.choice((16, 32, 64)), rng.choice((64, 128, 256)), rng.choice((0, 0, 0, 4, 8))


# -- the shapes, through the store


class Run:
    """One shape on a fresh store."""

    def __init__(self, shape: Shape) -> None:
        self.store = State()
        self.view = State()
        self.log_bytes = 0
        self.spent: Counter[str] = Counter()
        self._sequence = 0
        self._planning: Planning | None = None
        rule = ("node.labels.disk==ssd",) if shape.constrained else ()
        task = TaskSpec(driver="fake", placement=PlacementSpec(constraints=rule))
        service = Service(id=ServiceId("service"), spec=a_service_spec(task=task))
        status = TaskStatus(state=TaskState.PENDING)
        self.write_all([create(a_node(number)) for number in range(shape.nodes)])
        self.write_all([create(service), create(template_of(service))])
        self.write_all(
            [
                create(Task(id=TaskId(f"task-{n:07}"), service_id=service.id, spec_version=1, slot=n, status=status))
                for n in range(1, shape.tasks + 1)
            ]
        )
        self.log_bytes = 0

    def write_all(self, ops: list[Op]) -> None:
        for start in range(0, len(ops), OPS_MAX):
            self.write(tuple(ops[start : start + OPS_MAX]))

    def write(self, ops: tuple[Op, ...]) -> None:
        """Take a transaction through its encoding, the store and the dispatcher's replica."""
        self._sequence += 1
        with self.charge("encode, decode"):
            sent = encode(Transaction(client="bench", sequence=self._sequence, at=1.0, ops=ops))
            received = decode(Transaction, sent)
        self.log_bytes += len(sent)
        with self.charge("store"):
            result, changes = self.store.apply(received)
        assert result.conflict is None, result
        with self.charge("replica"):
            events = self.view.absorb(result.version, changes, received.at)
        if self._planning is not None:
            with self.charge("desk"):
                self._planning.absorb(events, 1.0)

    @contextmanager
    def charge(self, what: str) -> Iterator[None]:
        """Charge what happens inside to a name."""
        start = time.process_time()
        yield
        self.spent[what] += time.process_time() - start  # type: ignore[assignment]

    def schedule(self) -> None:
        """Start a scheduler and let it place everything."""
        self.spent.clear()
        with self.charge("start"):
            self._planning = planning = Planning(self.view, (Scheduler(),))
        number = 0
        while (due := planning.due()) is not None and due <= 1.0:
            with self.charge("plan, pack"):
                flights = planning.run(1.0)
            for flight in flights:
                self.write(flight.ops)
                number = flight.number
        assert number
        assert all(task.status.state is TaskState.ASSIGNED for task in self.view.tasks.values())


def shapes(rounds: int) -> None:
    print("SwarmKit's benchmark, through transactions and events: ms of processor time, median (range)")
    print(
        f"{'nodes':>8} {'tasks':>8} {'rule':>5} {'ms':>9} {'range':>19} {'us/task':>8} {'SwarmKit wall / cpu ms':>23} {'ratio':>12}"
    )
    bytes_a_task = 0.0
    for shape in SHAPES:
        spent = []
        run = Run(shape)
        for repeat in range(rounds if shape.tasks * shape.nodes < 10**8 else 1):
            run = Run(shape) if repeat else run
            gc.collect()
            gc.freeze()
            spent.append(1e3 * timed(run.schedule))
            gc.unfreeze()
        median = statistics.median(spent)
        beside = f"{shape.wall_ms:.0f} / {shape.cpu_ms:.0f}" if shape.wall_ms and shape.cpu_ms else "not measured"
        ratio = f"{shape.wall_ms / median:.1f} / {shape.cpu_ms / median:.1f}" if shape.wall_ms and shape.cpu_ms else ""
        print(
            f"{shape.nodes:>8} {shape.tasks:>8} {'yes' if shape.constrained else 'no':>5} {median:>9.1f}"
            f" {f'{min(spent):.1f} to {max(spent):.1f}':>19} {1e3 * median / shape.tasks:>8.1f} {beside:>23} {ratio:>12}",
            flush=True,
        )
        shares = (f"{what} {1e6 * spent / shape.tasks:.1f}" for what, spent in run.spent.items())
        print(f"{'':>24}us a task: {', '.join(shares)}", flush=True)
        bytes_a_task = run.log_bytes / shape.tasks
    print(f"bytes of log of an assignment: {bytes_a_task:.0f}\n")


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


# -- decisions alone


def fleet_of(nodes: int, rng: random.Random | None = None) -> Fleet:
    fleet = Fleet(1)
    for number in range(nodes):
        fleet.put(a_node(number, rng))
    return fleet


def single(fleet: Fleet, services: int, **asked: object) -> Callable[[], None]:
    """Return the placing of so many services of one task each."""
    groups = [Group(service=ServiceId(f"s{n}"), name=f"s{n}", **asked) for n in range(services)]  # type: ignore[arg-type]

    def work() -> None:
        planned = [plan(fleet, group, 1, 0.0) for group in groups]
        assert not any(each.short for each in planned)
        placed.extend(planned)

    placed: list[Plan] = []
    work.placed = placed  # type: ignore[attr-defined]
    return work


def decisions(rounds: int) -> None:
    asked: dict[str, dict[str, object]] = {
        "nothing asked": {},
        "cpu, memory": {"needs": needs_of({CPU: CORE // 1000, MEMORY: MIB})},
        "2 constraints": {"constraints": parse_constraints(("node.labels.disk==ssd", "node.labels.dc!=dc3"))},
        "dc, rack": {"preferences": ("node.labels.dc", "node.labels.rack")},
    }
    print("one-replica services, thousand decisions a second: median (range); SwarmKit's own, with nothing asked")
    print(f"{'nodes':>8} " + " ".join(f"{name:>20}" for name in asked) + f" {'SwarmKit':>9}")
    times: dict[int, float] = {}
    for nodes, theirs in GO_DECISIONS.items():
        fleet = fleet_of(nodes)
        cells = []
        for name, fields in asked.items():
            rates = []
            for _ in range(rounds):
                work = single(fleet, 2000, **fields)
                rates.append(2 / timed(work))
                for each in work.placed:  # type: ignore[attr-defined]
                    undo(fleet, each)
            cells.append(f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})")
            if name == "nothing asked":
                times[nodes] = 1 / statistics.median(rates)
        print(f"{nodes:>8} " + " ".join(f"{cell:>20}" for cell in cells) + f" {theirs:>9}", flush=True)
    low, middle, high = times
    print(
        f"exponent in nodes: {exponent(low, times[low], middle, times[middle]):.2f} to 10k, "
        f"{exponent(middle, times[middle], high, times[high]):.2f} to 50k (SwarmKit 0.83, 1.6)\n"
    )


def exponent(small: int, at_small: float, large: int, at_large: float) -> float:
    return math.log(at_large / at_small) / math.log(large / small)


def sizes(rounds: int) -> None:
    print("one group of many tasks on 10,000 nodes: ms")
    fleet, times = fleet_of(10_000), {}
    group = Group(service=ServiceId("big"), name="big", needs=needs_of({CPU: CORE // 1000, MEMORY: MIB}))
    for tasks in (10, 100, 1_000, 10_000, 100_000):
        spent = []
        for _ in range(rounds):
            made: list[Plan] = []
            spent.append(timed(lambda made=made, tasks=tasks: made.append(plan(fleet, group, tasks, 0.0))))  # type: ignore[misc]
            assert not made[0].short
            undo(fleet, made[0])
        times[tasks] = statistics.median(spent)
        print(
            f"  {tasks:>7} tasks {1e3 * times[tasks]:>8.2f} ({1e3 * min(spent):.2f} to {1e3 * max(spent):.2f}),"
            f" {tasks / times[tasks] / 1e3:.0f} thousand/s"
        )
    print(
        f"exponent in tasks: {exponent(1_000, times[1_000], 10_000, times[10_000]):.2f} to 10k,"
        f" {exponent(10_000, times[10_000], 100_000, times[100_000]):.2f} to 100k\n"
    )


RULES = ((), (), (), ("node.labels.disk==ssd",), ("node.platform.os==linux",), ("node.labels.dc!=dc3",),
         ("node.labels.zone==z1", "node.labels.disk==ssd"), ("node.platform.os==windows",))  # fmt: skip


def mixed_group(rng: random.Random, number: int) -> Group:
    amounts = {
        CPU: rng.choice((50, 100, 250, 500, 1000)) * CORE // 1000,
        MEMORY: rng.choice((128, 256, 512, 1024, 2048)) * MIB,
    }
    if rng.random() < 0.05:
        amounts[GENERIC + "gpu"] = 1
    return Group(
        service=ServiceId(f"m{number}"),
        name=f"m{number}",
        needs=needs_of(amounts),
        drivers=("/driver/fake",),
        constraints=parse_constraints(rng.choice(RULES)),
        preferences=rng.choice(((), (), ("node.labels.dc",), ("node.labels.zone", "node.labels.rack"))),
        max_replicas=rng.choice((0, 0, 0, 2)),
        host_ports=((8000 + number % 100, Protocol.TCP),) if rng.random() < 0.05 else (),
    )


def mixed(nodes: int) -> None:
    """Pareto sizes, constraints, preferences, limits, ports and devices, until a third of the fleet is full, with tasks ending."""
    rng = random.Random(4)
    fleet = fleet_of(nodes, rng)
    gc.collect()
    gc.freeze()
    latencies: list[float] = []
    live: list[tuple[Group, int]] = []
    tasks = pending = services = 0
    clock = time.process_time
    while tasks < 20 * nodes:
        group, wanted = mixed_group(rng, services), min(500, max(1, int(rng.paretovariate(0.9))))
        services += 1
        start = clock()
        planned = plan(fleet, group, wanted, 0.0)
        latencies.append(clock() - start)
        pending += planned.short
        tasks += wanted - planned.short
        live.extend(endings(planned, rng))
        for _ in range(min(len(live), 3)):
            ended, row = live.pop(rng.randrange(len(live)))
            fleet.discount(ended, row)
            fleet.vacate(ended, row)
    gc.unfreeze()
    latencies.sort()
    spent = sum(latencies)
    print(
        f"mixed arrivals on {nodes} nodes: {services} services, {tasks} tasks, {pending} pending; {tasks / spent / 1e3:.0f} thousand tasks/s;"
        f" ms of processor time a plan: p50 {1e3 * latencies[len(latencies) // 2]:.3f}, p99 {1e3 * latencies[int(len(latencies) * 0.99)]:.2f},"
        f" max {1e3 * latencies[-1]:.2f}\n",
        flush=True,
    )


def endings(planned: Plan, rng: random.Random) -> Iterator[tuple[Group, int]]:
    """Yield some of the tasks that were placed, to end later."""
    for row in planned.rows:
        if rng.random() < 0.1:
            yield planned.group, row


def million() -> None:
    """Plan a million tasks of 20,000 services on 10,000 nodes, each entered in the ledger under its id."""
    rng = random.Random(9)
    ledger = Ledger(build(1, [a_node(number, rng) for number in range(10_000)]))
    needs = [
        needs_of({CPU: cpus * CORE // 1000, MEMORY: mib * MIB}) for cpus in (10, 50, 100) for mib in (32, 128, 512)
    ]
    names = [[TaskId(f"{service}-{slot}") for slot in range(50)] for service in range(20_000)]
    groups = [
        Group(
            service=ServiceId(f"s{number}"),
            name=f"s{number}",
            needs=rng.choice(needs),
            constraints=parse_constraints(rng.choice(RULES)),
            preferences=rng.choice(((), (), (), ("node.labels.dc",))),
        )
        for number in range(20_000)
    ]
    gc.collect()
    gc.freeze()
    placed: list[int] = []

    def work() -> None:
        for group, tasks in zip(groups, names, strict=True):
            placed.append(len(ledger.place(group, tasks, 0.0)))

    spent = timed(work)
    gc.unfreeze()
    print(f"{sum(placed)} of 1,000,000 tasks on 10,000 nodes planned in {spent:.1f} s of processor time\n", flush=True)


def started(services: int, replicas: int) -> None:
    """Bytes of log and of memory of a task from its creation until it is known to run, through all loops, with ids as they are."""
    run = Started()
    tracemalloc.start()
    empty = tracemalloc.get_traced_memory()[0]
    run.start(services, replicas)
    tasks = services * replicas
    log = f"{run.placed_bytes / tasks:.0f} placed, {(run.log_bytes - run.placed_bytes) / tasks:.0f} running"
    run.store = State()  # what is left is the leader's copy
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - empty
    run.forget_loops()
    gc.collect()
    copy = tracemalloc.get_traced_memory()[0] - empty
    tracemalloc.stop()
    print(
        f"a started task, {services} services of {replicas}: bytes of log {run.log_bytes / tasks:.0f} ({log});"
        f" of memory {copy / tasks:.0f} in each copy of the state, {(used - copy) / tasks:.0f} in the leader's loops besides",
        flush=True,
    )


class Started:
    """All loops on 100 nodes, which report what runs in small batches."""

    def __init__(self) -> None:
        self.store, self.view = State(), State()
        self.log_bytes = self.placed_bytes = 0
        self._now = 1000.0
        self._sequence = 0
        self._ids = SeededIds(1)
        self._planning: Planning | None = None
        names = (NodeId(self._ids.new("node")) for _ in range(100))
        self._write([create(Cluster(id=ClusterId("c")))])
        self._write([create(replace(a_node(number), id=name)) for number, name in enumerate(names)])
        self._statuses = Statuses(NodeId(self._ids.new("node")))
        self._planning = Planning(self.view, all_loops(lambda: TaskId(self._ids.new("task")), (self._statuses,)))
        self._settle()

    def start(self, services: int, replicas: int) -> None:
        """Create services and let their tasks run."""
        for number in range(services):
            spec = replace(
                a_service_spec(f"s{number}", task=TaskSpec(driver="fake")), mode=Replicated(replicas=replicas)
            )
            service = Service(id=ServiceId(self._ids.new("service")), spec=spec)
            self._write([create(service), create(template_of(service))])
        self.log_bytes = 0
        self._settle()
        self.placed_bytes = self.log_bytes
        rng = random.Random(3)
        tasks = list(self.view.tasks)
        rng.shuffle(tasks)
        for first in range(0, len(tasks), 50):
            self._report(tasks[first : first + 50], rng)

    def forget_loops(self) -> None:
        """Keep nothing but the state."""
        self._planning = None

    def _report(self, tasks: list[TaskId], rng: random.Random) -> None:
        self._now += 0.02
        planning = self._planning
        assert planning is not None
        for task_id in tasks:
            node = self.view.tasks[task_id].node_id
            assert node is not None
            at, pid = self._now - rng.random() / 100, rng.randrange(1000, 40_000)
            status = TaskStatus(state=TaskState.RUNNING, timestamp=at, message="started", pid=pid)
            update = StatusUpdate(task_id=task_id, status=status)
            planning.nudge(self._statuses, self._statuses.offer(self.view, node, (update,)))
        self._settle()
        assert all(self.view.tasks[task_id].status.state is TaskState.RUNNING for task_id in tasks)

    def _settle(self) -> None:
        assert self._planning is not None
        while flights := self._planning.run(self._now):
            for flight in flights:
                self._write(flight.ops)

    def _write(self, ops: Sequence[Op]) -> None:
        self._sequence += 1
        sent = encode(Transaction(client="c" * 25, sequence=self._sequence, at=self._now, ops=tuple(ops)))
        self.log_bytes += len(sent)
        result, changes = self.store.apply(decode(Transaction, sent))
        assert result.conflict is None, result
        events = self.view.absorb(result.version, changes, self._now)
        if self._planning is not None:
            self._planning.absorb(events, self._now)
            for event in events:
                if event.table is Table.TASK:
                    self._statuses.stored(event)


def memory() -> None:
    """Bytes that the scheduler keeps for a placed task, besides the store's own objects."""
    run = Run(Shape(1_000, 20_000))
    run.schedule()
    desk = Planning(run.view, ()).desk
    gc.collect()
    tracemalloc.start()
    fresh = Scheduler()
    fresh.begin(desk)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"memory of index and ledger: {used / 20_000:.0f} bytes a task, at 20 tasks on each of 1,000 nodes")


def main(rounds: int = 5) -> None:
    """Print everything."""
    collect_rarely()
    shapes(rounds)
    decisions(rounds)
    sizes(rounds)
    mixed(1_000)
    mixed(10_000)
    million()
    memory()
    started(1_000, 10)
    started(40, 250)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
