"""The control loops: whatever happens, and wherever a leader is cut off, the swarm comes to what its specs say and then rests.

One story is a list of acts by users, nodes, tasks and leaders, with the loops running a few rounds in between (or not at all). At its end
everything heals, time passes, and what is there is compared with what was asked for; a fresh leader must find nothing to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.objects import Service, Task
from services.kit.model.specs import (
    Annotations,
    CronSchedule,
    Dependency,
    Global,
    GlobalJob,
    Placement,
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import (
    Availability,
    DependencyCondition,
    FailureAction,
    NodeState,
    TaskState,
    UpdateOrder,
    UpdateState,
)
from services.kit.state.state import Event
from services.kit.state.transaction import remove
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace

NAMES = ("a", "b", "c")
NODES = ("n1", "n2", "n3", "n4")
MODES: tuple[ServiceMode, ...] = (
    Replicated(replicas=0),
    Replicated(replicas=1),
    Replicated(replicas=4),
    Global(),
    ReplicatedJob(max_concurrent=2, total_completions=5),
    GlobalJob(),
)
ACTS = (
    "create",
    "create",
    "scale",
    "image",
    "image",
    "remove",
    "fail",
    "fail",
    "complete",
    "lose",
    "return",
    "drain",
    "activate",
    "pause",
    "label",
    "label",
    "label",
    "leader",
    "leader",
    "time",
    "rollback",
    "pause_update",
    "resume_update",
    "delete_task",
)
stories = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 11), st.integers(0, 3)),
    max_size=25,
)
"""What, a number that decides about what exactly, and how many rounds the swarm gets afterwards."""


class Story:
    """A swarm that things happen to."""

    def __init__(self) -> None:
        self.swarm = Swarm(3)
        self.most_at_once = 0
        self.swarm.on_events.append(self._watch)

    # -- what must hold at any moment

    def _watch(self, events: list[Event]) -> None:
        for service in self.swarm.state.services.values():
            mode = service.spec.mode
            if not isinstance(mode, ReplicatedJob):
                continue
            iteration = 0 if service.job_status is None else service.job_status.iteration
            tasks = [t for t in self.swarm.state.tasks_of_service(service.id).values() if t.job_iteration == iteration]
            live = [t for t in tasks if t.desired_state <= TaskState.COMPLETE and not t.status.state.terminal]
            done = [t for t in tasks if t.status.state is TaskState.COMPLETE]
            assert len(live) <= mode.max_concurrent, "more at once than asked for"
            assert len(live) + len(done) <= mode.total_completions, "more in all than asked for"

    # -- acts

    def act(self, what: str, number: int) -> None:
        """Let one thing happen, if it can."""
        swarm = self.swarm
        name, node = NAMES[number % 3], NODES[number % 4]
        service = swarm.state.service_named(name)
        match what:
            case "create":
                if service is None and not swarm.state.specs_of(ServiceId(f"id-{name}")):
                    self._create(name, number)
            case "lose":
                if NodeId(node) in swarm.obedient:
                    swarm.lose_node(node)
            case "leader":
                swarm.become_leader()
            case "time":
                swarm.pass_time(number * 3.0)
            case "return" | "activate" | "drain" | "pause" | "label":
                self._node(what, node, number)
            case _ if service is not None:
                self._to_service(what, service, number)
            case _:
                pass

    def _to_service(self, what: str, service: Service, number: int) -> None:
        swarm, name = self.swarm, service.spec.annotations.name
        match what:
            case "scale" if isinstance(service.spec.mode, Replicated):
                swarm.scale(name, number % 6)
            case "image":
                swarm.set_image(name, f"v{number}", self._config(service, number))
            case "rollback" if service.previous_spec is not None:
                swarm.update_service(name, rollback=True)
            case "pause_update" if self._is(service, UpdateState.UPDATING):
                swarm.update_service(name, pause=True)
            case "resume_update" if self._is(service, UpdateState.PAUSED):
                swarm.update_service(name, resume=True)
            case "remove":
                swarm.remove_service(name)
            case "fail" | "complete" | "delete_task":
                self._to_task(what, swarm.tasks(name), number)
            case _:
                pass

    def _to_task(self, what: str, tasks: list[Task], number: int) -> None:
        if what == "delete_task":
            for task in tasks[number % 4 : number % 4 + 1]:
                self.swarm.write(remove(task))
            return
        state = TaskState.FAILED if what == "fail" else TaskState.COMPLETE
        here = [t for t in tasks if t.status.state is TaskState.RUNNING and t.node_id in self.swarm.obedient]
        for task in here[:1]:
            self.swarm.end_task(task, state)

    def _create(self, name: str, number: int) -> None:
        mode = MODES[number % len(MODES)]
        constraints = ("node.labels.disk!=hdd",) if number % 3 else ()
        template = TaskSpec(
            driver="fake", placement=Placement(constraints=constraints), restart=RestartPolicy(delay_s=number % 3)
        )
        others = (
            [Dependency(service=NAMES[0], condition=DependencyCondition.STARTED)] if name == "c" and number % 2 else []
        )
        spec = a_service_spec(name, mode=mode, task=template, depends_on=tuple(others))
        self.swarm.create_service(spec)

    def _config(self, service: Service, number: int) -> UpdateConfig:
        if isinstance(service.spec.mode, ReplicatedJob | GlobalJob):
            return UpdateConfig()
        order = UpdateOrder.START_FIRST if number % 2 else UpdateOrder.STOP_FIRST
        action = (FailureAction.PAUSE, FailureAction.CONTINUE, FailureAction.ROLLBACK)[number % 3]
        return UpdateConfig(parallelism=number % 3, order=order, failure_action=action, delay_s=number % 2)

    def _is(self, service: Service | None, state: UpdateState) -> bool:
        return service is not None and service.update_status is not None and service.update_status.state is state

    def _node(self, what: str, name: str, number: int) -> None:
        swarm = self.swarm
        node = swarm.state.nodes.get(NodeId(name))
        if node is None:
            if what == "return":
                swarm.add_node(name)
            return
        if what == "return":
            swarm.obedient.add(NodeId(name))
            swarm.set_node_state(name, NodeState.READY)
            return
        if what == "label":
            labels = {"disk": ("ssd", "hdd")[number % 2]}
            swarm.change_node(name, spec=_replace(node.spec, annotations=Annotations(labels=labels)))
            return
        availability = {"activate": Availability.ACTIVE, "drain": Availability.DRAIN, "pause": Availability.PAUSE}[what]
        swarm.change_node(name, spec=_replace(node.spec, availability=availability))

    # -- the end

    def heal(self) -> None:
        """Bring all nodes back, let updates go on, let everything happen, and let jobs finish."""
        swarm = self.swarm
        for node_id, node in list(swarm.state.nodes.items()):
            swarm.change_node(node_id, spec=_replace(node.spec, availability=Availability.ACTIVE))
            swarm.obedient.add(node_id)
            swarm.set_node_state(node_id, NodeState.READY)
        for name in NAMES:
            if self._is(swarm.state.service_named(name), UpdateState.PAUSED):
                swarm.update_service(name, resume=True)
        for _ in range(8):
            swarm.pass_time(150)
            for task in list(swarm.state.tasks.values()):
                if task.desired_state is TaskState.COMPLETE and task.status.state is TaskState.RUNNING:
                    swarm.end_task(task, TaskState.COMPLETE)
        swarm.pass_time(700)

    def check(self) -> None:
        """Compare what is there with what was asked for."""
        swarm = self.swarm
        swarm.planning.desk.check()
        known = {service.id for service in swarm.state.services.values()}
        assert {task.service_id for task in swarm.state.tasks.values()} <= known, "tasks of a removed service are left"
        for service in swarm.state.services.values():
            if any(swarm.state.service_named(each.service) is None for each in service.spec.depends_on):
                continue
            self._check_service(service)

    def _check_service(self, service: Service) -> None:
        swarm, name = self.swarm, service.spec.annotations.name
        running = swarm.running(name)
        done = swarm.tasks(name, where=lambda t: t.status.state is TaskState.COMPLETE)
        iteration = 0 if service.job_status is None else service.job_status.iteration
        current = [task for task in done if task.job_iteration == iteration]
        fitting = self._fitting(service)
        assert {task.node_id for task in running} <= fitting, "a task stays where it does not fit"
        match service.spec.mode:
            case Replicated(replicas=replicas) if fitting:
                assert len(running) == replicas, name
                assert len({task.slot for task in running}) == replicas
            case Global():
                assert Counter(task.node_id for task in running) == Counter(fitting)
            case ReplicatedJob(total_completions=total) if fitting:
                assert len({task.slot for task in current}) == len(current) == total
            case GlobalJob():
                assert {task.node_id for task in current} >= fitting
            case _:
                assert not running, "no node fits"
        if not isinstance(service.spec.mode, ReplicatedJob | GlobalJob):
            versions = {task.spec_version for task in running}
            assert versions <= {service.spec_version} or not any(self._differs(v, service) for v in versions)
        lingering = [
            t for t in swarm.tasks(name) if t.desired_state > TaskState.COMPLETE and not t.status.state.terminal
        ]
        assert not lingering, "what is not wanted has stopped"

    def _fitting(self, service: Service) -> set[NodeId | None]:
        nodes = self.swarm.state.nodes.values()
        constrained = bool(service.spec.task.placement.constraints)
        return {node.id for node in nodes if not constrained or node.spec.annotations.labels.get("disk") != "hdd"}

    def _differs(self, version: int, service: Service) -> bool:
        spec = self.swarm.state.spec(service.id, version)
        return spec is None or spec.task != service.spec.task

    def finds_nothing(self) -> None:
        """A fresh leader has nothing to do."""
        self.swarm.become_leader()
        assert self.swarm.plan() == [], "a converged swarm is left alone"


def tell(story: list[tuple[str, int, int]], between: Callable[[Swarm, int], None]) -> Story:
    told = Story()
    for what, number, rounds in story:
        told.act(what, number)
        between(told.swarm, rounds)
    told.heal()
    told.check()
    told.finds_nothing()
    return told


FEW = settings(max_examples=120, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(stories)
def test_any_story_ends_in_what_was_asked_for(story: list[tuple[str, int, int]]) -> None:
    tell(story, lambda swarm, rounds: swarm.settle_for(rounds) if rounds < 3 else swarm.pass_time(20))


@FEW
@given(stories, st.integers(0, 5))
def test_a_leader_that_is_cut_off_after_any_of_its_writes_leaves_nothing_that_the_next_one_cannot_mend(
    story: list[tuple[str, int, int]], cut: int
) -> None:
    """Each pass of the loops is written up to some transaction; then another leader begins with what is stored."""

    def interrupted(swarm: Swarm, rounds: int) -> None:
        for turn in range(rounds + 1):
            flights = swarm.plan()
            for flight in flights[: (cut + turn) % (len(flights) + 1)]:
                swarm.land(flight)
            swarm.become_leader()
            swarm.agents_act()

    tell(story, interrupted)


@FEW
@given(stories)
def test_results_that_come_late_and_out_of_order_do_no_harm(story: list[tuple[str, int, int]]) -> None:
    """Transactions stay under way while later passes plan on top of them, and come down newest first."""

    def pending(swarm: Swarm, rounds: int) -> None:
        flights = []
        for _ in range(rounds + 1):
            flights += swarm.plan()
            swarm.agents_act()
        for flight in reversed(flights):
            swarm.land(flight)

    tell(story, pending)


def test_a_scheduled_jobs_runs_are_as_many_as_were_due_whoever_led() -> None:
    hour = 3600.0
    swarm = Swarm(2)
    swarm.now = 1_700_000_000.0 // hour * hour + 60
    mode = ReplicatedJob(schedule=CronSchedule(cron="0 * * * *", keep_last=100))
    swarm.create_service(a_service_spec(mode=mode, restart=RestartPolicy(delay_s=0)))
    for turn in range(24):
        swarm.pass_time(hour)
        if turn % 3 == 0:
            swarm.become_leader()
        for task in swarm.tasks(where=lambda t: t.status.state is TaskState.RUNNING):
            swarm.end_task(task, TaskState.COMPLETE)
        swarm.settle()
    assert sorted(task.job_iteration for task in swarm.tasks()) == list(range(1, 25))


@pytest.mark.parametrize("loop", range(11))
def test_each_loop_leaves_a_converged_swarm_alone(loop: int) -> None:
    """Asked about everything it may ever look at, it has no step to make."""
    story = Story()
    for index, name in enumerate(NAMES):
        story._create(name, index * 4 + 2)
    story.heal()
    swarm = story.swarm
    swarm.become_leader()
    one = swarm.planning._loops[loop + 1]
    plan = one.plan(swarm.planning.desk, tuple(one.begin(swarm.planning.desk)), swarm.now)
    assert list(plan.steps) == [], one.name
