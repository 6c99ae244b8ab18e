"""What deploying a stack changes, worked out before anything is sent; ``stack plan`` shows it, ``stack deploy`` carries it out.

Pure. What must stay true: the plan is the whole of what a deployment does, and planning again right after it finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from msgspec.structs import replace

from services.cli.plain import plain
from services.cli.stack.payloads import PayloadStep
from services.client.convergence import same_work
from services.kit.model.constraints import parse_constraints, satisfies
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Node, Service, Task
from services.kit.model.specs import Global, GlobalJob, Replicated, ReplicatedJob, ServiceSpec
from services.kit.model.states import Availability, NodeState, TaskState, UpdateOrder
from services.kit.model.value import Value


class Verb(StrEnum):
    """What happens to a service."""

    CREATE = "create"
    UPDATE = "update"
    LEAVE = "leave"
    REMOVE = "remove"


class Difference(Value, frozen=True, kw_only=True):
    """One field of a spec that changes; None where there is nothing."""

    field: str
    old: Any = None
    new: Any = None


class Step(Value, frozen=True, kw_only=True):
    """One service of the plan."""

    verb: Verb
    name: str
    spec: ServiceSpec | None = None
    """What it shall be; None for one that goes."""
    service_id: ServiceId | None = None
    old: ServiceSpec | None = None
    """What the plan is based on."""
    differences: tuple[Difference, ...] = ()
    tasks: int | None = None
    """Tasks it shall have; None for one on every node that fits."""
    started: int = 0
    """Tasks that are started beside those that run, and not in place of any."""
    stopped: int = 0
    """Tasks that are stopped and not replaced."""
    replaced: int = 0
    """Running tasks that make room for new ones."""
    fits: tuple[str, ...] = ()
    """Nodes whose state, platform, driver and labels allow a task."""
    misfits: dict[str, str] = {}
    """The other nodes, each with its reason."""

    @property
    def disturbs(self) -> str:
        """Say in words what running tasks notice."""
        told = []
        if self.replaced:
            assert self.spec is not None, "only a service that stays replaces its tasks"
            update = self.spec.update
            pace = f"{update.parallelism} at a time" if update.parallelism else "all at once"
            first = "the new one first" if update.order is UpdateOrder.START_FIRST else "the old one stops first"
            told.append(f"replaces {_tasks(self.replaced)}, {pace}, {first}")
        if self.stopped:
            told.append(f"stops {_tasks(self.stopped)}")
        if self.started:
            told.append(f"starts {_tasks(self.started)}")
        return "; ".join(told) or "disturbs nothing"


class Plan(Value, frozen=True, kw_only=True):
    """All steps, in the order in which they are carried out."""

    stack: str
    steps: tuple[Step, ...] = ()
    payloads: tuple[PayloadStep, ...] = ()
    """Secrets and configs: what is made and renewed comes before the services, what goes behind them."""

    @property
    def empty(self) -> bool:
        """True when everything is as the file has it."""
        verbs = [*(step.verb.value for step in self.steps), *(each.verb for each in self.payloads)]
        return all(verb == Verb.LEAVE.value for verb in verbs)


def plan_stack(
    stack: str,
    specs: Iterable[ServiceSpec],
    there: Iterable[Service],
    tasks: Iterable[Task],
    nodes: Iterable[Node],
    *,
    prune: bool,
) -> Plan:
    """Return what makes the services of a stack those of its file; with ``prune`` others go, last of all."""
    left = {service.spec.annotations.name: service for service in there}
    live: dict[ServiceId, list[Task]] = {}
    for task in tasks:
        if task.desired_state <= TaskState.RUNNING and not task.status.state.terminal:
            live.setdefault(task.service_id, []).append(task)
    every = tuple(nodes)
    steps = []
    for spec in specs:
        old = left.pop(spec.annotations.name, None)
        steps.append(_create(spec, every) if old is None else _change(old, spec, live.get(old.id, []), every))
    if prune:
        steps += [_remove(left[name], live.get(left[name].id, [])) for name in sorted(left)]
    return Plan(stack=stack, steps=tuple(steps))


def _create(spec: ServiceSpec, nodes: tuple[Node, ...]) -> Step:
    fits, misfits = _placement(spec, nodes)
    wanted = _wanted(spec)
    started = len(fits) if wanted is None else wanted
    name = spec.annotations.name
    return Step(verb=Verb.CREATE, name=name, spec=spec, tasks=wanted, started=started, fits=fits, misfits=misfits)


def _change(old: Service, wanted: ServiceSpec, live: list[Task], nodes: tuple[Node, ...]) -> Step:
    spec = replace(wanted, task=replace(wanted.task, force_update=old.spec.task.force_update))
    fits, misfits = _placement(spec, nodes)
    verb = Verb.LEAVE if spec == old.spec else Verb.UPDATE
    count = _wanted(spec)
    kept = len(live) if count is None else min(len(live), count)
    replaced = 0 if verb is Verb.LEAVE else sum(_replaces(old.spec, spec, task, nodes) for task in live[:kept])
    return Step(
        verb=verb,
        name=spec.annotations.name,
        spec=spec,
        service_id=old.id,
        old=old.spec,
        differences=differences(old.spec, spec),
        tasks=count,
        started=0 if count is None or verb is Verb.LEAVE else max(0, count - len(live)),
        stopped=0 if verb is Verb.LEAVE else len(live) - kept,
        replaced=replaced,
        fits=fits,
        misfits=misfits,
    )


def _remove(old: Service, live: list[Task]) -> Step:
    name = old.spec.annotations.name
    return Step(verb=Verb.REMOVE, name=name, service_id=old.id, old=old.spec, stopped=len(live))


def _replaces(old: ServiceSpec, new: ServiceSpec, task: Task, nodes: tuple[Node, ...]) -> bool:
    """A task is replaced when it would do something else, or when its node no longer fits."""
    if not same_work(old.task, new.task) or old.endpoint != new.endpoint:
        return True
    node = next((node for node in nodes if node.id == task.node_id), None)
    constraints = parse_constraints(new.task.placement.constraints)
    return old.task.placement != new.task.placement and node is not None and not satisfies(node, constraints)


def _wanted(spec: ServiceSpec) -> int | None:
    match spec.mode:
        case Replicated(replicas=replicas):
            return replicas
        case ReplicatedJob(max_concurrent=most):
            return most
        case Global() | GlobalJob():
            return None


def _placement(spec: ServiceSpec, nodes: tuple[Node, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the nodes that a task may go to and why the others are none."""
    fits, misfits = [], {}
    for node in nodes:
        why = _misfit(spec, node)
        name = node.spec.annotations.name or node.description.hostname or node.id
        if why:
            misfits[name] = why
        else:
            fits.append(name)
    return tuple(fits), misfits


def _misfit(spec: ServiceSpec, node: Node) -> str:
    task = spec.task
    if node.status.state is not NodeState.READY:
        return f"is {node.status.state.name.lower()}"
    if node.spec.availability is not Availability.ACTIVE:
        return f"is set to {node.spec.availability.value}"
    if node.description.drivers and task.driver not in node.description.drivers:
        return f"cannot run the driver {task.driver}"
    for text, constraint in zip(task.placement.constraints, parse_constraints(task.placement.constraints), strict=True):
        if not satisfies(node, (constraint,)):
            return f"does not meet {text}"
    here = node.description.platform
    matching = (
        (not each.os or each.os == here.os) and (not each.architecture or each.architecture == here.architecture)
        for each in task.placement.platforms
    )
    if task.placement.platforms and not any(matching):
        return "has another platform"
    return ""


def differences(old: ServiceSpec, new: ServiceSpec) -> tuple[Difference, ...]:
    """Return the fields that differ, by their dotted names as ``--json`` has them."""
    before, after = _flat(plain(old)), _flat(plain(new))
    return tuple(
        Difference(field=field, old=before.get(field), new=after.get(field))
        for field in sorted({*before, *after})
        if before.get(field) != after.get(field)
    )


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(item, dict) and item:
            found.update(_flat(item, name))
        else:
            found[name] = item
    return found


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


SIGNS: dict[str, str] = {Verb.CREATE: "+", Verb.UPDATE: "~", Verb.LEAVE: "=", Verb.REMOVE: "-"}


def plan_lines(plan: Plan) -> list[str]:
    """Return the plan as people read it."""
    lines = [f"{SIGNS.get(each.verb, '~')} {each.verb} {each.noun} {each.name}" for each in plan.payloads]
    for step in plan.steps:
        lines.append(f"{SIGNS[step.verb]} {step.verb.value} service {step.name}")
        if step.verb is Verb.LEAVE:
            continue
        if step.verb is Verb.UPDATE:
            lines += [f"    {each.field}: {_shown(each.old)} → {_shown(each.new)}" for each in step.differences]
        lines.append(f"    {step.disturbs}")
        if step.verb is not Verb.REMOVE:
            lines += _placement_lines(step)
    counts = ", ".join(
        f"{sum(step.verb is verb for step in plan.steps)} to {verb.value}"
        for verb in (Verb.CREATE, Verb.UPDATE, Verb.REMOVE)
    )
    return [*lines, "nothing to do: everything is as the file has it" if plan.empty else counts]


def _placement_lines(step: Step) -> list[str]:
    if not step.fits:
        reasons = "; ".join(f"{node} {why}" for node, why in step.misfits.items()) or "there are no nodes"
        return [f"    no node fits: {reasons}"]
    where = f"    may run on {', '.join(step.fits)}"
    return (
        [where]
        if not step.misfits
        else [where, *(f"    not on {node}: it {why}" for node, why in step.misfits.items())]
    )


def _shown(value: object) -> str:
    text = "nothing" if value in (None, "", [], {}) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
