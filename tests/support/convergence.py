"""A swarm in memory: the real state, the real loops and machines of the dispatcher, agents that obey; no I/O and no time of its own.

The simulator and the benchmarks grow from it. ``settle`` lets everything happen that can happen without time passing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import msgspec

from services.dispatcher.core.control.answers import Answer
from services.dispatcher.core.control.networks import create_network, remove_network
from services.dispatcher.core.control.services import create_service, update_service
from services.dispatcher.core.desk import Flight
from services.dispatcher.core.loops import all_loops
from services.dispatcher.core.planning import Planning
from services.dispatcher.core.statuses import Statuses
from services.kit.messages.control import CreateServiceRequest, UpdateServiceRequest
from services.kit.messages.networks import CreateNetworkRequest, RemoveNetworkRequest
from services.kit.messages.session import StatusUpdate
from services.kit.model.ids import ClusterId, NetworkId, NodeId, ServiceId, TaskId
from services.kit.model.objects import (
    Cluster,
    EngineDescription,
    Network,
    Node,
    NodeDescription,
    NodeStatus,
    Service,
    Task,
)
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    IpamConfig,
    NetworkSpec,
    Platform,
    Replicated,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import NodeState, TaskState
from services.kit.runtime.ids import SeededIds
from services.kit.state.state import Event, State
from services.kit.state.tables import Table
from services.kit.state.transaction import Op, Transaction, TxResult, create, remove, update

ROUNDS_MAX = 2000

_replace = msgspec.structs.replace


def a_service_spec(
    name: str = "web",
    *,
    replicas: int = 1,
    mode: ServiceMode | None = None,
    task: TaskSpec | None = None,
    restart: RestartPolicy | None = None,
    image: str = "v1",
    **fields: object,
) -> ServiceSpec:
    """Return a valid spec for the fake driver."""
    template = task or TaskSpec(driver="fake", container=ContainerSpec(image=image))
    if restart is not None:
        template = _replace(template, restart=restart)
    spec = ServiceSpec(annotations=Annotations(name=name), task=template, mode=mode or Replicated(replicas=replicas))
    return _replace(spec, **fields)


def a_node(name: str, *, cpus: int = 8, memory_bytes: int = 16 << 30, **fields: object) -> Node:
    """Return a ready node."""
    description = NodeDescription(
        hostname=name,
        platform=Platform(architecture="x86_64", os="linux"),
        resources=Resources(nano_cpus=cpus * 10**9, memory_bytes=memory_bytes),
        engine=EngineDescription(name="fake"),
        drivers=("fake", "process"),
    )
    node = Node(
        id=NodeId(name), description=description, status=NodeStatus(state=NodeState.READY, addr="127.0.0.1", since=1.0)
    )
    return _replace(node, **fields)


class Swarm:
    """State, dispatcher and agents."""

    def __init__(self, nodes: int = 3, *, seed: int = 1, history: int = 5) -> None:
        self.now = 1_700_000_000.0
        self._store = State()
        self.state = State()
        """What the leader has absorbed of the store; nothing is under way between the two."""
        self.rng = random.Random(seed)
        self.ids = SeededIds(seed)
        self.obedient: set[NodeId] = set()
        """Nodes whose agents do what they are told."""
        self.behaviour: Callable[[Task], TaskState | None] = lambda task: None
        """What becomes of a task that would start: a state, or None for RUNNING."""
        self._sequence = 0
        self._in_flight: list[Flight] = []
        self.on_events: list[Callable[[list[Event]], None]] = []
        cluster = Cluster(id=ClusterId("cluster"))
        spec = _replace(
            cluster.spec, orchestration=_replace(cluster.spec.orchestration, task_history_retention_limit=history)
        )
        self.write(create(_replace(cluster, spec=spec)))
        for number in range(nodes):
            self.add_node(f"n{number + 1}")
        self.become_leader()

    # -- the leader

    def become_leader(self) -> None:
        """Start a term: whatever the last leader knew besides the state is gone."""
        self._in_flight = []
        self.statuses = Statuses(NodeId("manager"))
        loops = all_loops(lambda: TaskId(self.ids.new("task")), (self.statuses,))
        self.planning = Planning(self.state, loops)

    def write(self, *ops: Op) -> TxResult:
        """Apply a transaction and tell the leader what it changed."""
        self._sequence += 1
        transaction = Transaction(client="swarm", sequence=self._sequence, at=self.now, ops=ops)
        result, changes = self._store.apply(transaction)
        events = self.state.absorb(self._store.version, changes, transaction.at)
        if hasattr(self, "planning"):
            self.planning.absorb(events, self.now)
            for event in events:
                if event.table is Table.TASK:
                    self.statuses.stored(event)
        for listener in self.on_events:
            listener(events)
        return result

    def plan(self) -> list[Flight]:
        """Run one pass and keep its transactions under way."""
        flights = self.planning.run(self.now)
        self._in_flight += flights
        return flights

    def land(self, flight: Flight) -> TxResult:
        """Let the store decide about a transaction that is under way."""
        self._in_flight.remove(flight)
        result = self.write(*flight.ops)
        self.planning.answer(flight.number, result, self.now)
        return result

    def settle(self, *, agents: bool = True) -> int:
        """Let leader, store and agents act until nobody has anything to do; return the number of rounds."""
        for round_number in range(ROUNDS_MAX):
            busy = bool(self._in_flight)
            for flight in list(self._in_flight):
                self.land(flight)
            due = self.planning.due()
            if due is not None and due <= self.now:
                self.plan()
                busy = True
            if agents and self.agents_act():
                busy = True
            if not busy and not self._in_flight:
                return round_number
        raise AssertionError("the swarm does not settle")

    def settle_for(self, rounds: int) -> None:
        """Let everybody act for some rounds, for swarms in which somebody is always busy."""
        for _ in range(rounds):
            for flight in list(self._in_flight):
                self.land(flight)
            self.plan()
            self.agents_act()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, waking the leader whenever it wants to be woken."""
        until = self.now + seconds
        self.settle()
        while True:
            due = self.planning.due()
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.settle()
        self.now = until
        self.settle()

    # -- nodes and agents

    def add_node(self, name: str, **fields: object) -> Node:
        """Add a ready node whose agent obeys."""
        node = a_node(name, **fields)  # type: ignore[arg-type]
        self.write(create(node))
        self.obedient.add(node.id)
        return node

    def change_node(self, name: str, **fields: object) -> None:
        """Replace fields of a node."""
        node = self.state.nodes[NodeId(name)]
        self.write(update(_replace(node, **fields)))

    def lose_node(self, name: str) -> None:
        """The node is gone, and the dispatcher has noticed."""
        self.obedient.discard(NodeId(name))
        self.set_node_state(name, NodeState.DOWN)

    def set_node_state(self, name: str, state: NodeState) -> None:
        """Set what is known of a node."""
        node = self.state.nodes[NodeId(name)]
        self.write(update(_replace(node, status=_replace(node.status, state=state, since=self.now))))

    def agents_act(self) -> bool:
        """Let every obedient agent take each of its tasks to where it should be; False when there was nothing to do."""
        acted = False
        for node in sorted(self.obedient):
            updates = [
                StatusUpdate(task_id=task.id, status=_replace(task.status, state=state, message=state.name.lower()))
                for task in self.state.tasks_of_node(node).values()
                if (state := self._next_state(task)) is not None
            ]
            acted = bool(updates and self.report(node, updates)) or acted
        return acted

    def report(self, node: NodeId, updates: list[StatusUpdate]) -> list[TaskId]:
        """Report statuses as an agent does."""
        tasks = self.statuses.offer(self.planning.desk, node, updates)
        self.planning.nudge(self.statuses, tasks)
        return tasks

    def _next_state(self, task: Task) -> TaskState | None:
        state = task.status.state
        if state.terminal or state < TaskState.ASSIGNED:
            return None
        if task.desired_state > TaskState.COMPLETE:
            return TaskState.SHUTDOWN
        if task.desired_state is TaskState.READY:
            return TaskState.READY if state < TaskState.READY else None
        if state < TaskState.RUNNING:
            return self.behaviour(task) or TaskState.RUNNING
        return None

    def end_task(self, task: Task, state: TaskState) -> None:
        """A task ends by itself."""
        assert task.node_id is not None
        self.report(task.node_id, [StatusUpdate(task_id=task.id, status=_replace(task.status, state=state))])

    # -- users

    def create_service(self, spec: ServiceSpec | None = None, **fields: object) -> Service:
        """Create a service as the control API does."""
        chosen = spec or a_service_spec(**fields)  # type: ignore[arg-type]
        request = CreateServiceRequest(spec=chosen)
        answer = create_service(self.state, request, ServiceId(f"id-{chosen.annotations.name}"), self.now)
        return self._make(answer)

    def create_network(self, name: str, *subnets: str, **fields: object) -> Network:
        """Create a network as the control API does."""
        ipam = tuple(IpamConfig(subnet=each) for each in subnets)
        spec = _replace(NetworkSpec(annotations=Annotations(name=name), ipam=ipam), **fields)
        answer = create_network(self.state, CreateNetworkRequest(spec=spec), NetworkId(f"id-{name}"))
        result = self.write(*answer.ops)
        assert result.conflict is None, result
        return self.state.networks[NetworkId(f"id-{name}")]

    def remove_network(self, name: str) -> None:
        """Remove a network as the control API does."""
        answer = remove_network(self.state, RemoveNetworkRequest(network_id=NetworkId(name)))
        result = self.write(*answer.ops)
        assert result.conflict is None, result

    def update_service(self, name: str, spec: ServiceSpec | None = None, **how: bool) -> Service:
        """Replace a service's spec, or roll it back, pause or resume its update, as the control API does."""
        service = self.service(name)
        request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=spec, **how)
        return self._make(update_service(self.state, request, self.now))

    def _make(self, answer: Answer) -> Service:
        result = self.write(*answer.ops)
        assert result.conflict is None, result
        assert isinstance(answer.thing, Service)
        return self.state.services[answer.thing.id]

    def scale(self, name: str, replicas: int) -> None:
        """Change the number of replicas."""
        self.update_service(name, _replace(self.service(name).spec, mode=Replicated(replicas=replicas)))

    def set_image(self, name: str, image: str, config: UpdateConfig | None = None) -> None:
        """Change the image of a service, and how the change rolls out."""
        spec = self.service(name).spec
        task = _replace(spec.task, container=_replace(spec.task.container, image=image))
        self.update_service(name, _replace(spec, task=task, update=config or spec.update))

    def remove_service(self, name: str) -> None:
        """Delete a service."""
        self.write(remove(self.service(name)))

    # -- looking

    def service(self, name: str = "web") -> Service:
        """The service with this name."""
        service = self.state.service_named(name)
        assert service is not None
        return service

    def tasks(self, name: str = "web", *, where: Callable[[Task], bool] = lambda task: True) -> list[Task]:
        """Tasks of a service by slot, oldest first."""
        found = [task for task in self.state.tasks_of_service(ServiceId(f"id-{name}")).values() if where(task)]
        return sorted(found, key=lambda task: (task.slot, task.meta.created_at, task.meta.version, task.id))

    def running(self, name: str = "web") -> list[Task]:
        """Tasks of a service that run and are meant to."""
        return self.tasks(
            name, where=lambda t: t.status.state is TaskState.RUNNING and t.desired_state is TaskState.RUNNING
        )

    def images(self, tasks: Iterable[Task]) -> list[str]:
        """Images of tasks."""
        specs = (self.state.spec(task.service_id, task.spec_version) for task in tasks)
        return ["" if spec is None else spec.task.container.image for spec in specs]
