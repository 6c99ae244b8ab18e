"""Why no node has a task: the scheduler's own filters asked one after the other, and the node that lacks least.

Used by the findings on tasks. What must stay true: the counts are those of the filters in the scheduler's order, and every reason of the
nearest miss is one that would refuse it by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.dispatcher.core.control.refs import node_name
from services.dispatcher.core.fleet import match
from services.dispatcher.core.fleet.bits import Bits
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import CPU, GENERIC, MEMORY, Group, Need
from services.dispatcher.core.fleet.match import meeting
from services.dispatcher.core.fleet.why import REASONS, Reason, refusals
from services.dispatcher.core.picture import Picture
from services.dispatcher.core.scheduling.scheduler import Scheduler
from services.kit.messages.inquiry import NearestMiss, Refusal
from services.kit.model.ids import NodeId
from services.kit.model.objects import Task

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """What the scheduler can do for a task."""

    refusals: tuple[Refusal, ...] = ()
    nearest: NearestMiss | None = None
    fitting: int = 0
    """Nodes that would have it now."""


class Placings:
    """Answers for the tasks of one picture; builds the index of the fleet when it is first asked."""

    def __init__(self, view: Picture) -> None:
        self._view = view
        self._scheduler: Scheduler | None = None
        self._answers: dict[tuple[str, int, str | None], Placing | None] = {}
        """Tasks of a group that were made for no node, or for the same, have one answer."""

    def of(self, task: Task) -> Placing | None:
        """Return why a waiting task is not placed, None when its template is gone."""
        key = (task.service_id, task.spec_version, task.node_id)
        if key not in self._answers:
            self._answers[key] = self._answer(task)
        return self._answers[key]

    def _answer(self, task: Task) -> Placing | None:
        if self._scheduler is None:
            self._scheduler = Scheduler()
            self._scheduler.begin(self._view)
        kept = self._scheduler.kept
        group = kept.group(self._view, (task.service_id, task.spec_version))
        if group is None:
            return None
        fleet = kept.fleet
        rows = fleet.known
        if task.node_id is not None:
            row = fleet.row_of.get(task.node_id)
            rows = 0 if row is None else rows & (1 << row)
        counts = refusals(fleet, group, rows)
        ranked = sorted(counts, key=lambda reason: (-counts[reason], REASONS.index(reason)))
        shown = tuple(
            Refusal(reason=reason.tell(counts[reason]), nodes=counts[reason], mend=_mend(reason, group))
            for reason in ranked
        )
        fitting = rows.bit_count() - sum(counts.values())
        nearest = None if fitting else self._nearest(fleet, group, rows)
        return Placing(refusals=shown, nearest=nearest, fitting=fitting)

    def _nearest(self, fleet: Fleet, group: Group, rows: int) -> NearestMiss | None:
        """Return the node that the fewest filters refuse; among equals the one whose first refusal comes last, then by id."""
        passing = [(reason, reason.passes(fleet, group)) for reason in REASONS]
        best: tuple[tuple[int, int, str], int] | None = None
        for node_id, row in fleet.row_of.items():
            if not rows >> row & 1:
                continue
            failed = [index for index, (_, bits) in enumerate(passing) if not bits >> row & 1]
            rank = (len(failed), -min(failed, default=0), node_id)
            if best is None or rank < best[0]:
                best = rank, row
        if best is None:
            return None
        row = best[1]
        lacks = [
            words for reason, bits in passing if not bits >> row & 1 for words in _lacks(fleet, group, row, reason)
        ]
        node_id = NodeId(best[0][2])
        node = self._view.nodes.get(node_id)
        name = node_id if node is None else node_name(node) or node_id
        return NearestMiss(node_id=node_id, node_name=name, lacks=tuple(lacks))


def _lacks(fleet: Fleet, group: Group, row: int, reason: Reason) -> list[str]:
    """Return what keeps one node from passing a filter, in words."""
    if reason.passes is match.has_room:
        missing: list[str] = []
        for need in group.needs:
            free = fleet.dimension(need.resource).free[row]
            if free < need.amount:
                missing.append(f"{_amount(need, need.amount)} wanted, {_amount(need, max(0, int(free)))} free")
        return missing
    if reason.passes is match.meets_constraints:
        return [
            f"{each.key} {each.operator.value} {each.value}"
            for each in group.constraints
            if not meeting(fleet, each) >> row & 1
        ]
    if reason.passes is match.is_ready:
        node = fleet.nodes[row]
        return (
            [f"it is {node.status.state.name.lower()} and {node.spec.availability.value}"] if node else ["it is gone"]
        )
    return [reason.tell(1).removesuffix(" on 1 node")]


def _amount(need: Need, amount: int) -> str:
    if need.resource == CPU:
        return f"{amount / 10**9:g} CPU"
    if need.resource == MEMORY:
        return f"{amount / GIB:.3g} GiB of memory"
    return f"{amount} {need.resource.removeprefix(GENERIC)}"


def _mend(reason: Reason, group: Group) -> str:
    constraints = ", ".join(f"{each.key}{each.operator.value}{each.value}" for each in group.constraints)
    mends: dict[Callable[[Fleet, Group], Bits], str] = {
        match.is_ready: "bring nodes back, or set their availability to active",
        match.has_room: "reserve less, remove other tasks, or add nodes",
        match.can_run: f"install what the task needs ({', '.join(_words(able) for able in group.drivers)})",
        match.meets_constraints: f"label a node so that it meets {constraints}, or change the constraints",
        match.has_platform: "add a node of the right platform, or change the image",
        match.has_ports_free: "publish through ingress, or on another port",
        match.is_below_max: f"add nodes, or allow more than {group.max_replicas} tasks of the service on one",
        match.is_good_company: "change affinity or anti-affinity, or add nodes",
    }
    return mends.get(reason.passes, "")


def _words(able: str) -> str:
    return able.removeprefix("/").replace("/", " ")
