"""Cluster volumes: what users may ask, where they are published, and what their drivers have to do."""

from __future__ import annotations

import msgspec
import pytest

from services.dispatcher.core import volume_steps as steps
from services.dispatcher.core.assignments import AssignmentBook
from services.dispatcher.core.control.volumes import create_volume, find_volume, remove_volume, update_volume
from services.dispatcher.core.desk import Desk
from services.dispatcher.core.loops.volumes import Volumes, taken_down
from services.kit.errors import FailedPrecondition, InvalidArgument
from services.kit.model.ids import NodeId, VolumeId, spec_version_id
from services.kit.model.objects import Node, SpecVersion, Task, Volume
from services.kit.model.specs import Annotations, DriverConfig, TaskSpec
from services.kit.model.states import TaskState
from services.kit.model.volumes import (
    CapacityRange,
    Publication,
    PublicationState,
    VolumeAvailability,
    VolumeInfo,
    VolumeSpec,
    VolumeUse,
)
from services.kit.state.state import Event, State
from services.kit.state.tables import Table
from services.kit.state.transaction import Action, Op, Transaction, create, update
from tests.support.convergence import Swarm

_replace = msgspec.structs.replace
N1, N2 = NodeId("n1"), NodeId("n2")
SPEC = VolumeSpec(annotations=Annotations(name="data"), driver=DriverConfig(name="shared"))
INFO = VolumeInfo(volume_id="their-data")


def volume(*publications: Publication, info: VolumeInfo | None = INFO, doomed: bool = False) -> Volume:
    return Volume(id=VolumeId("v"), spec=SPEC, info=info, publications=publications, pending_delete=doomed)


def on(node: NodeId, state: PublicationState) -> Publication:
    return Publication(node_id=node, state=state)


def stored(*things: Volume) -> State:
    state = State()
    write(state, *(create(thing) for thing in things))
    return state


def write(state: State, *ops: Op) -> None:
    result, _ = state.apply(Transaction(client="test", sequence=state.version + 1, ops=ops, at=1.0))
    assert result.conflict is None


def test_one_request_makes_one_volume_and_mistakes_are_all_named() -> None:
    state = State()
    first = create_volume(state, SPEC, "request", "fresh")
    write(state, *first.ops)
    assert create_volume(state, SPEC, "request", "other").ops == ()
    assert find_volume(state, "DATA").spec == SPEC
    wrong = VolumeSpec(
        annotations=Annotations(name="no/name"),
        driver=DriverConfig(),
        capacity=CapacityRange(required_bytes=2, limit_bytes=1),
    )
    with pytest.raises(InvalidArgument) as caught:
        create_volume(state, wrong, "", "fresh")
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["annotations.name", "driver.name", "capacity.required_bytes"]


def test_only_labels_and_availability_change() -> None:
    state = stored(volume())
    held = state.volumes[VolumeId("v")]
    drained = _replace(SPEC, availability=VolumeAvailability.DRAIN)
    changed = update_volume(state, held.id, held.meta.version, drained).thing
    assert isinstance(changed, Volume)
    assert changed.spec == drained
    with pytest.raises(InvalidArgument):
        update_volume(state, held.id, held.meta.version, _replace(SPEC, group="other"))


def test_a_removed_volume_waits_for_its_nodes() -> None:
    state = stored(volume(on(N1, PublicationState.PUBLISHED)))
    doomed = remove_volume(state, VolumeId("v"), force=False).thing
    assert isinstance(doomed, Volume)
    assert doomed.pending_delete
    assert steps.next_step(doomed) is None
    assert steps.next_step(_replace(doomed, publications=())) == steps.Delete()


def test_the_driver_makes_it_then_lets_nodes_use_it() -> None:
    assert steps.next_step(volume(info=None)) == steps.Create()
    waiting = volume(on(N1, PublicationState.PENDING_PUBLISH))
    assert steps.next_step(waiting) == steps.Attach(N1)
    attached = steps.attached(waiting, N1, {"port": "1"})
    assert attached.publications[0].state is PublicationState.PUBLISHED
    assert attached.publications[0].context == {"port": "1"}
    assert steps.next_step(attached) is None


def test_what_goes_back_goes_before_what_comes() -> None:
    both = volume(on(N2, PublicationState.PENDING_PUBLISH), on(N1, PublicationState.PENDING_UNPUBLISH))
    assert steps.next_step(both) == steps.Detach(N1)
    assert steps.next_step(steps.detached(both, N1)) == steps.Attach(N2)


def test_what_went_wrong_is_told_where_it_did() -> None:
    waiting = volume(on(N1, PublicationState.PENDING_PUBLISH))
    assert steps.failed(waiting, steps.Attach(N1), "no").publications[0].message == "no"
    assert steps.failed(waiting, steps.Create(), "no").message == "no"


def test_a_node_is_believed_only_when_it_was_asked() -> None:
    assert taken_down(volume(on(N1, PublicationState.PUBLISHED)), N1) is None
    asked = volume(on(N1, PublicationState.PENDING_NODE_UNPUBLISH))
    assert taken_down(asked, N2) is None
    down = taken_down(asked, N1)
    assert down is not None
    assert down.publications[0].state is PublicationState.PENDING_UNPUBLISH


def test_a_node_is_given_what_is_published_there_and_told_to_take_it_down() -> None:
    state = stored(volume(on(N1, PublicationState.PUBLISHED)))
    book = AssignmentBook(N1, state)
    first = book.take(state)
    assert first is not None
    assert [(each.id, each.driver, each.volume_id) for each in first.volumes] == [("v", "shared", "their-data")]
    assert AssignmentBook(N2, state).take(state).volumes == ()  # type: ignore[union-attr]
    old = state.volumes[VolumeId("v")]
    new = _replace(old, publications=(on(N1, PublicationState.PENDING_NODE_UNPUBLISH),))
    write(state, update(new, base=old.meta.version))
    assert book.notice_volume(Event(action=Action.UPDATE, table=Table.VOLUME, old=old, new=new))
    after = book.take(state)
    assert after is not None
    assert (after.volumes, after.removed_volumes) == ((), ("v",))
    late = AssignmentBook(N1, state).take(state)
    assert late is not None
    assert late.removed_volumes == ("v",), "an agent that registers anew hears it as well"


def test_tasks_decide_where_a_volume_is_published() -> None:
    swarm = Swarm(1)
    swarm.create_service(replicas=1)
    swarm.settle()
    (task,) = swarm.state.tasks.values()
    assert task.node_id is not None
    assert task.status.state is TaskState.RUNNING
    use = VolumeUse(volume_id=VolumeId("v"), source="data", target="/data")
    with pytest.raises(FailedPrecondition):
        remove_volume(_with(task, use), VolumeId("v"), force=False)

    def planned(state: State) -> tuple[Publication, ...]:
        loop, desk = Volumes(lambda: task.id), Desk(state)
        plan = loop.plan(desk, list(loop.begin(desk)), 1.0)
        return plan.steps[0].puts[0].publications if plan.steps else ()  # type: ignore[union-attr]

    used = _with(task, use)
    assert planned(used) == (Publication(node_id=task.node_id),)
    unused = stored(volume(on(N1, PublicationState.PUBLISHED), on(N2, PublicationState.PENDING_PUBLISH)))
    assert {each.state for each in planned(unused)} == {PublicationState.PENDING_UNPUBLISH}, "these nodes are gone"


def _with(task: Task, use: VolumeUse) -> State:
    """Return a state with a volume, a node and a task that has the volume there."""
    assert task.node_id is not None
    spec = SpecVersion(
        id=spec_version_id(task.service_id, task.spec_version),
        service_id=task.service_id,
        version=task.spec_version,
        annotations=Annotations(name="web"),
        task=TaskSpec(),
    )
    state = State()
    write(
        state,
        create(volume()),
        create(Node(id=task.node_id)),
        create(spec),
        create(_replace(task, volumes=(use,))),
    )
    return state
