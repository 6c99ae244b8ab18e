"""How fast the dispatcher's own work is: a service from ``create`` to all tasks RUNNING, no sockets and no disk.

Runs the real loops, the real transactions applied by one state (as the raft process does) and absorbed by another (as the dispatcher
does), and the real assignment books; agents answer at once, with one coalesced status a task. Prints tasks per second and where the
time goes. ``python -m tests.bench.dispatcher [tasks] [nodes]``.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import msgspec

from services.dispatcher.core.assignments import AssignmentBook
from services.dispatcher.core.desk import Flight
from services.dispatcher.core.loops import all_loops
from services.dispatcher.core.planning import Planning
from services.dispatcher.core.specs import template_of
from services.dispatcher.core.statuses import Statuses
from services.kit.messages.session import Assignments, StatusUpdate, UpdateTaskStatus
from services.kit.model.ids import NodeId, ServiceId, SessionId, TaskId
from services.kit.model.objects import Service
from services.kit.model.states import TaskState
from services.kit.runtime.ids import SystemIds
from services.kit.state.state import Event, State
from services.kit.state.transaction import Change, Op, Transaction, create
from services.kit.wire.codec import decode, encode
from tests.support.convergence import a_node, a_service_spec

ROUNDS = 5
_replace = msgspec.structs.replace
ResultT = TypeVar("ResultT")


class Run:
    """One service on a fresh swarm."""

    def __init__(self, nodes: int) -> None:
        self.store = State()
        self.view = State()
        self.spent: Counter[str] = Counter()
        self.log_bytes = 0
        self.transactions = 0
        self.messages = 0
        ids = SystemIds()
        self.statuses = Statuses(NodeId("manager"))
        names = [NodeId(f"node-{number:05}") for number in range(nodes)]
        self._sequence = 0
        self.planning: Planning | None = None
        for start in range(0, nodes, 1000):
            self.write(tuple(create(a_node(name, cpus=1000)) for name in names[start : start + 1000]))
        self.planning = Planning(self.view, all_loops(lambda: TaskId(ids.new("task")), (self.statuses,)))
        self.books = {name: AssignmentBook(name, self.view) for name in names}
        for book in self.books.values():
            book.take(self.view)

    def timed(self, what: str, work: Callable[[], ResultT]) -> ResultT:
        """Charge the time of some work to a name."""
        start = time.perf_counter()
        result = work()
        self.spent[what] += time.perf_counter() - start  # type: ignore[assignment]
        return result

    def write(self, ops: tuple[Op, ...]) -> None:
        """Take a transaction through encoding, the store and the dispatcher's replica."""
        self._sequence += 1
        transaction = Transaction(client="bench", sequence=self._sequence, at=time.time(), ops=ops)
        sent = self.timed("encode and decode transactions", lambda: encode(transaction))
        self.log_bytes += len(sent)
        self.transactions += 1
        received = self.timed("encode and decode transactions", lambda: decode(Transaction, sent))
        result, changes = self.timed("apply in the store", lambda: self.store.apply(received))
        assert result.conflict is None, result
        self.absorb(result.version, changes, received.at)

    def absorb(self, version: int, changes: tuple[Change, ...], at: float) -> None:
        """Do what the dispatcher does with a batch."""
        events = self.timed("absorb in the replica", lambda: self.view.absorb(version, changes, at))
        if self.planning is not None:
            planning = self.planning
            self.timed("settle on the desk", lambda: planning.absorb(events, time.time()))
            self.timed("assignments", lambda: self.note(events))

    def note(self, events: list[Event]) -> None:
        """Tell the books and take stored statuses out of the inbox."""
        for event in events:
            if event.table == "task":
                self.statuses.stored(event)
                node = getattr(event.new, "node_id", None)
                if node is not None:
                    self.books[node].notice(event)

    def agents(self) -> None:
        """Let every node with news run what it was told."""
        planning = self.planning
        assert planning is not None
        for node, book in self.books.items():
            message = self.timed("assignments", lambda book=book: book.take(self.view))  # type: ignore[misc]
            if message is None:
                continue
            sent = self.timed("encode assignments", lambda message=message: encode(message))  # type: ignore[misc]
            told = decode(Assignments, sent)
            updates = tuple(
                StatusUpdate(task_id=each.task.id, status=_replace(each.task.status, state=TaskState.RUNNING, pid=4711))
                for each in told.tasks
                if each.task.status.state < TaskState.RUNNING
            )
            if not updates:
                continue
            self.messages += 2
            report = encode(UpdateTaskStatus(session_id=SessionId("s"), updates=updates))
            heard = self.timed("decode statuses", lambda report=report: decode(UpdateTaskStatus, report))  # type: ignore[misc]
            tasks = self.timed(
                "take statuses",
                lambda node=node, heard=heard: self.statuses.offer(planning.desk, node, heard.updates),  # type: ignore[misc]
            )
            planning.nudge(self.statuses, tasks)

    def create(self, tasks: int) -> float:
        """Create the service and return the seconds until all of its tasks run."""
        service = Service(id=ServiceId(SystemIds().new("service")), spec=a_service_spec(replicas=tasks))
        planning = self.planning
        assert planning is not None
        start = time.perf_counter()
        self.write((create(service), create(template_of(service))))
        while planning.due() == 0.0 or not planning.desk.is_clear:
            flights: list[Flight] = self.timed("plan and pack", lambda: planning.run(time.time()))
            for flight in flights:
                self.write(flight.ops)
            self.agents()
        spent = time.perf_counter() - start
        running = sum(task.status.state is TaskState.RUNNING for task in self.view.tasks.values())
        assert running == tasks, f"{running} of {tasks} tasks run"
        return spent


def main(tasks: int = 10_000, nodes: int = 100) -> None:
    """Print the figures."""
    seconds: list[float] = []
    run = Run(nodes)
    for _ in range(ROUNDS):
        run = Run(nodes)
        gc.collect()
        seconds.append(run.create(tasks))
    median = statistics.median(seconds)
    low, high = tasks / max(seconds), tasks / min(seconds)
    print(
        f"{tasks} tasks on {nodes} nodes: {tasks / median:,.0f} tasks/s (median of {ROUNDS}, {low:,.0f} to {high:,.0f})"
    )
    print(f"{run.transactions} transactions, {run.log_bytes / tasks:,.0f} bytes of log a task, {run.messages} messages")
    rest = seconds[-1] - sum(run.spent.values())
    for what, spent in [*run.spent.most_common(), ("agents and the rest", rest)]:
        print(f"  {what:32} {1e6 * float(spent) / tasks:7.1f} µs a task  {100 * float(spent) / seconds[-1]:5.1f} %")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
