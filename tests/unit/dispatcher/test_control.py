"""What the control API makes of requests: writes, or the error that a user sees."""

from __future__ import annotations

import msgspec
import pytest

from services.dispatcher.core.control.answers import Answer, refusal
from services.dispatcher.core.control.cluster import REVOKED_GRACE_S, shown_cluster, update_cluster
from services.dispatcher.core.control.filters import list_nodes, list_services, list_tasks
from services.dispatcher.core.control.nodes import remove_node, shown_node, update_node
from services.dispatcher.core.control.refs import find_node, find_service, find_task
from services.dispatcher.core.control.services import create_service, service_status
from services.dispatcher.core.control.tasks import remove_task
from services.kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SwarmError,
    Unimplemented,
)
from services.kit.messages.control import (
    CreateServiceRequest,
    Filters,
    RemoveNodeRequest,
    RemoveTaskRequest,
    UpdateClusterRequest,
    UpdateNodeRequest,
)
from services.kit.messages.store import Member, RaftStatus
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import (
    Cluster,
    ManagerStatus,
    Node,
    NodeCertificate,
    RevokedCertificate,
    RootCa,
    RootRotation,
)
from services.kit.model.specs import (
    Annotations,
    CaConfig,
    EndpointSpec,
    Global,
    GlobalJob,
    NodeSpec,
    PortConfig,
    Replicated,
    ReplicatedJob,
    ServiceMode,
    UpdateConfig,
)
from services.kit.model.states import (
    EndpointMode,
    Membership,
    NodeState,
    PublishMode,
    Reachability,
    Role,
    TaskState,
    UpdateState,
)
from services.kit.state.transaction import update
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace
NOW = 1_700_000_000.0


def entropy(size: int) -> bytes:
    return bytes(range(size))


# -- services


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Replicated(replicas=1), Global()),
        (Global(), Replicated(replicas=1)),
        (Replicated(), ReplicatedJob()),
        (GlobalJob(), Global()),
    ],
)
def test_a_service_keeps_its_mode(old: ServiceMode, new: ServiceMode) -> None:
    swarm = Swarm(0)
    swarm.create_service(a_service_spec(mode=old))
    with pytest.raises(Unimplemented, match="mode"):
        swarm.update_service("web", a_service_spec(mode=new))


def test_a_service_keeps_its_name_and_a_name_is_taken_once_whatever_its_case() -> None:
    swarm = Swarm(0)
    swarm.create_service()
    with pytest.raises(Unimplemented, match="renamed"):
        swarm.update_service("web", a_service_spec("other"))
    answer = create_service(swarm.state, CreateServiceRequest(spec=a_service_spec("WEB")), ServiceId("x"), NOW)
    conflict = swarm.write(*answer.ops).conflict
    assert conflict is not None
    assert isinstance(refusal(conflict), AlreadyExists)


def test_a_job_cannot_have_an_update_configuration() -> None:
    spec = a_service_spec(mode=ReplicatedJob(), update=UpdateConfig(parallelism=2))
    with pytest.raises(InvalidArgument, match="update configuration"):
        create_service(Swarm(0).state, CreateServiceRequest(spec=spec), ServiceId("x"), NOW)


def test_the_rollback_configuration_is_checked_as_well() -> None:
    spec = a_service_spec(rollback=UpdateConfig(max_failure_ratio=2.0))
    with pytest.raises(InvalidArgument, match=r"rollback\.max_failure_ratio"):
        create_service(Swarm(0).state, CreateServiceRequest(spec=spec), ServiceId("x"), NOW)


def test_an_update_keeps_the_spec_before_and_clears_where_the_last_update_stood() -> None:
    swarm = Swarm(1)
    swarm.create_service()
    swarm.settle()
    swarm.set_image("web", "v2")
    swarm.pass_time(100)
    assert swarm.service().update_status is not None
    before = swarm.service()
    swarm.scale("web", 2)
    after = swarm.service()
    assert (after.previous_spec, after.previous_spec_version) == (before.spec, before.spec_version)
    assert after.spec_version == before.spec_version, "a change of scale makes no new version"
    assert after.update_status is None


def test_a_rollback_by_hand_swaps_the_specs_and_needs_one_to_go_back_to() -> None:
    swarm = Swarm(0)
    swarm.create_service()
    with pytest.raises(FailedPrecondition, match="no previous spec"):
        swarm.update_service("web", rollback=True)
    swarm.set_image("web", "v2")
    before = swarm.service()
    after = swarm.update_service("web", rollback=True)
    assert (after.spec, after.previous_spec) == (before.previous_spec, before.spec)
    assert after.update_status is not None
    assert after.update_status.state is UpdateState.ROLLBACK_STARTED
    assert after.update_status.message == "manually requested rollback"


@pytest.mark.parametrize("mode", [ReplicatedJob(max_concurrent=1, total_completions=2), GlobalJob()])
def test_every_update_of_a_job_is_another_run(mode: ServiceMode) -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(mode=mode))
    for run in (1, 2):
        swarm.now += 10
        swarm.update_service("web", swarm.service().spec)
        status = swarm.service().job_status
        assert status is not None
        assert (status.iteration, status.last_execution) == (run, swarm.now)


def ports(*configs: tuple[int, PublishMode]) -> EndpointSpec:
    return EndpointSpec(
        ports=tuple(PortConfig(target_port=80, published_port=port, publish_mode=mode) for port, mode in configs)
    )


@pytest.mark.parametrize(
    ("held", "asked", "fine"),
    [
        (PublishMode.INGRESS, PublishMode.INGRESS, False),
        (PublishMode.INGRESS, PublishMode.HOST, False),
        (PublishMode.HOST, PublishMode.INGRESS, False),
        (PublishMode.HOST, PublishMode.HOST, True),
    ],
)
def test_a_port_that_is_taken_is_refused_by_the_store_itself(held: PublishMode, asked: PublishMode, fine: bool) -> None:
    swarm = Swarm(0)
    swarm.create_service(a_service_spec("a", endpoint=ports((80, held))))
    request = CreateServiceRequest(spec=a_service_spec("b", endpoint=ports((80, asked))))
    conflict = swarm.write(*create_service(swarm.state, request, ServiceId("b"), NOW).ops).conflict
    assert (conflict is None) == fine
    if conflict is not None:
        assert "already published by service 'a'" in str(refusal(conflict))
    swarm.update_service("a", _replace(swarm.service("a").spec, endpoint=ports((80, held), (81, held))))


def test_the_same_port_of_another_protocol_is_another_port_and_dnsrr_has_no_ingress() -> None:
    swarm = Swarm(0)
    swarm.create_service(a_service_spec("a", endpoint=ports((80, PublishMode.INGRESS))))
    from services.kit.model.states import Protocol

    udp = EndpointSpec(ports=(PortConfig(target_port=80, published_port=80, protocol=Protocol.UDP),))
    swarm.create_service(a_service_spec("b", endpoint=udp))
    spec = a_service_spec("c", endpoint=_replace(ports((81, PublishMode.INGRESS)), mode=EndpointMode.DNSRR))
    with pytest.raises(InvalidArgument, match="dnsrr"):
        swarm.create_service(spec)


def test_counts_say_what_is_wanted_running_and_complete() -> None:
    swarm = Swarm(3)
    swarm.create_service(a_service_spec("a", replicas=4))
    swarm.create_service(a_service_spec("b", mode=Global()))
    swarm.create_service(a_service_spec("c", mode=ReplicatedJob(max_concurrent=2, total_completions=3)))
    swarm.create_service(a_service_spec("d", mode=GlobalJob()))
    swarm.settle()
    for name in ("c", "d"):
        swarm.end_task(swarm.tasks(name)[0], TaskState.COMPLETE)
    swarm.settle()
    counts = {name: service_status(swarm.state, swarm.service(name)) for name in "abcd"}
    assert [(c.desired, c.running, c.completed) for c in counts.values()] == [
        (4, 4, 0),
        (3, 3, 0),
        (2, 2, 1),
        (3, 2, 1),
    ]
    swarm.update_service("c", swarm.service("c").spec)
    assert service_status(swarm.state, swarm.service("c")).completed == 0, "only the current run counts"


def test_an_update_based_on_an_old_version_is_refused() -> None:
    swarm = Swarm(0)
    service = swarm.create_service()
    swarm.scale("web", 3)
    from services.dispatcher.core.control.services import update_service
    from services.kit.messages.control import UpdateServiceRequest

    request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=service.spec)
    with pytest.raises(Conflict, match="out of sequence"):
        update_service(swarm.state, request, NOW)


# -- nodes


def raft_of(**reachable: bool) -> RaftStatus:
    members = tuple(
        Member(
            node_id=NodeId(name),
            raft_addr="127.0.0.1:1",
            leader=index == 0,
            reachability=Reachability.REACHABLE if fine else Reachability.UNREACHABLE,
        )
        for index, (name, fine) in enumerate(reachable.items())
    )
    return RaftStatus(
        node_id=NodeId("n1"),
        state="leader",
        term=1,
        commit_index=1,
        applied_index=1,
        version=1,
        leader=NodeId("n1"),
        members=members,
    )


def managers(count: int) -> Swarm:
    swarm = Swarm(3)
    for number in range(count):
        swarm.change_node(f"n{number + 1}", role=Role.MANAGER, spec=NodeSpec(desired_role=Role.MANAGER))
    return swarm


def demote(swarm: Swarm, name: str, raft: RaftStatus) -> Answer:
    node = swarm.state.nodes[NodeId(name)]
    request = UpdateNodeRequest(node_id=node.id, version=node.meta.version, spec=NodeSpec())
    return update_node(swarm.state, request, raft)


def test_the_last_manager_a_stranger_to_raft_and_a_needed_vote_are_not_demoted() -> None:
    with pytest.raises(FailedPrecondition, match="last manager"):
        demote(managers(1), "n1", raft_of(n1=True))
    with pytest.raises(NotFound, match="not a member"):
        demote(managers(2), "n2", raft_of(n1=True))
    with pytest.raises(FailedPrecondition, match="quorum"):
        demote(managers(3), "n3", raft_of(n1=True, n2=False, n3=True))
    assert demote(managers(3), "n3", raft_of(n1=True, n2=True, n3=True)).ops


def test_a_node_is_shown_with_its_part_in_raft_which_is_never_stored() -> None:
    swarm = managers(2)
    shown = shown_node(swarm.state.nodes[NodeId("n1")], raft_of(n1=True, n2=True))
    assert shown.manager_status == ManagerStatus(
        raft_addr="127.0.0.1:1", leader=True, reachability=Reachability.REACHABLE
    )
    request = UpdateNodeRequest(node_id=shown.id, version=shown.meta.version, spec=shown.spec)
    thing = update_node(swarm.state, request, None).thing
    assert isinstance(thing, Node)
    assert thing.manager_status is None


def test_a_node_is_updated_from_what_was_read_only() -> None:
    swarm = Swarm(1)
    request = UpdateNodeRequest(node_id=NodeId("n1"), version=99, spec=NodeSpec())
    with pytest.raises(Conflict):
        update_node(swarm.state, request, None)


def test_a_member_and_a_ready_node_are_not_removed_and_force_removes_the_latter() -> None:
    swarm = managers(1)
    with pytest.raises(FailedPrecondition, match="demote it first"):
        remove_node(swarm.state, RemoveNodeRequest(node_id=NodeId("n1"), force=True), raft_of(n1=True), NOW)
    with pytest.raises(FailedPrecondition, match="use force"):
        remove_node(swarm.state, RemoveNodeRequest(node_id=NodeId("n2")), None, NOW)
    with pytest.raises(NotFound):
        remove_node(swarm.state, RemoveNodeRequest(node_id=NodeId("gone")), None, NOW)


def test_a_removed_node_is_revoked_and_its_unfinished_tasks_are_orphaned() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=4)
    swarm.settle()
    ended = next(task for task in swarm.running() if task.node_id == "n1")
    swarm.end_task(ended, TaskState.FAILED)
    swarm.settle()
    certificate = NodeCertificate(public_key=b"k" * 32, not_after=NOW + 100)
    swarm.change_node("n1", certificate=certificate)
    swarm.obedient.discard(NodeId("n1"))
    result = swarm.write(*remove_node(swarm.state, RemoveNodeRequest(node_id=NodeId("n1"), force=True), None, NOW).ops)
    assert result.conflict is None
    cluster = swarm.state.cluster
    assert cluster is not None
    assert cluster.revoked == (RevokedCertificate(node_id=NodeId("n1"), public_key=b"k" * 32, expires_at=NOW + 100),)
    states = {t.id: t.status.state for t in swarm.tasks() if t.node_id == "n1"}
    assert states.pop(ended.id) is TaskState.FAILED
    assert set(states.values()) == {TaskState.ORPHANED}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), ["n1", "n2", "n3"]),
        (Filters(names=("n2", "n3")), ["n2", "n3"]),
        (Filters(name_prefixes=("n",), roles=(Role.MANAGER,)), ["n1"]),
        (Filters(node_labels={"tier": ""}), ["n2"]),
        (Filters(node_labels={"tier": "other"}), []),
        (Filters(labels={"kernel": "6"}), ["n3"]),
        (Filters(labels={"tier": ""}), []),
        (Filters(memberships=(Membership.PENDING,)), []),
        (Filters(node_ids=(NodeId("n3"),), id_prefixes=("n",)), ["n3"]),
    ],
)
def test_nodes_are_filtered_by_every_class(filters: Filters, found: list[str]) -> None:
    swarm = managers(1)
    swarm.change_node("n2", spec=NodeSpec(annotations=Annotations(labels={"tier": "front"})))
    node = swarm.state.nodes[NodeId("n3")]
    engine = _replace(node.description.engine, labels={"kernel": "6"})
    swarm.change_node("n3", description=_replace(node.description, engine=engine))
    assert [node.id for node in list_nodes(swarm.state, filters)] == found


# -- tasks, services by reference


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (Filters(), 5),
        (Filters(service_ids=(ServiceId("id-a"),)), 3),
        (Filters(service_ids=(ServiceId("id-a"),), node_ids=(NodeId("n1"),)), 2),
        (Filters(desired_states=(TaskState.SHUTDOWN,)), 1),
        (Filters(names=("a.1",)), 2),
        (Filters(name_prefixes=("b",)), 2),
        (Filters(labels={"tier": "front"}), 2),
    ],
)
def test_tasks_are_filtered_by_every_class(filters: Filters, count: int) -> None:
    swarm = Swarm(2)
    swarm.create_service(a_service_spec("a", replicas=2))
    swarm.settle()
    swarm.create_service(a_service_spec("b", replicas=2, annotations=Annotations(name="b", labels={"tier": "front"})))
    swarm.settle()
    first = next(task for task in swarm.running("a") if task.slot == 1)
    swarm.end_task(first, TaskState.FAILED)
    swarm.pass_time(1)
    on_first = sum(task.node_id == "n1" for task in swarm.tasks("a"))
    found, specs = list_tasks(swarm.state, filters)
    assert len(found) == (on_first if filters.node_ids else count)
    assert {(spec.service_id, spec.version) for spec in specs} == {(t.service_id, t.spec_version) for t in found}


def test_services_are_listed_by_name() -> None:
    swarm = Swarm(0)
    for name in ("b", "c", "a"):
        swarm.create_service(a_service_spec(name))
    assert [s.spec.annotations.name for s in list_services(swarm.state, Filters())] == ["a", "b", "c"]


def test_a_task_is_removed_whatever_its_state() -> None:
    swarm = Swarm(1)
    swarm.create_service()
    swarm.settle()
    task = swarm.running()[0]
    swarm.write(*remove_task(swarm.state, RemoveTaskRequest(task_id=task.id)).ops)
    assert task.id not in swarm.state.tasks
    with pytest.raises(NotFound):
        remove_task(swarm.state, RemoveTaskRequest(task_id=TaskId("no")))


def test_things_are_meant_by_id_name_or_the_only_prefix() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    task = swarm.running()[0]
    assert find_service(swarm.state, "WEB").id == find_service(swarm.state, "id-w").id == "id-web"
    assert find_node(swarm.state, "n1").id == "n1"
    for ref in (task.id, f"web.{task.slot}", f"web.{task.slot}.{task.id}", task.id[:12]):
        assert find_task(swarm.state, ref).id == task.id
    with pytest.raises(FailedPrecondition, match="ambiguous"):
        find_node(swarm.state, "n")
    with pytest.raises(NotFound, match="did you mean 'web'"):
        find_service(swarm.state, "wbe")


# -- the cluster


def cluster_of(swarm: Swarm) -> Cluster:
    assert swarm.state.cluster is not None
    return swarm.state.cluster


def change(swarm: Swarm, **how: bool) -> Cluster:
    cluster = cluster_of(swarm)
    request = UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec, **how)
    thing = update_cluster(swarm.state, request, entropy, NOW).thing
    assert isinstance(thing, Cluster)
    return thing


def with_cluster(**fields: object) -> Swarm:
    swarm = Swarm(0)
    swarm.write(update(_replace(cluster_of(swarm), **fields)))
    return swarm


def test_nobody_is_shown_a_key() -> None:
    root = RootCa(ca_key=b"key", rotation=RootRotation(ca_key=b"key"))
    swarm = with_cluster(root_ca=root, unlock_key=b"key")
    cluster = cluster_of(swarm)
    ca = CaConfig(signing_ca_key=b"key", signing_ca_cert=b"key")
    shown = shown_cluster(_replace(cluster, spec=_replace(cluster.spec, ca=ca)))
    assert b"key" not in msgspec.msgpack.encode(shown).replace(b"_key", b"")
    assert shown.root_ca.join_tokens == cluster.root_ca.join_tokens


def test_one_token_is_rotated_and_the_other_stays() -> None:
    swarm = with_cluster(root_ca=RootCa(digest="d" * 50))
    rotated = change(swarm, rotate_worker_token=True).root_ca.join_tokens
    assert rotated.worker.startswith("SWMTKN-1-")
    assert rotated.manager == ""
    assert change(swarm, rotate_manager_token=True).root_ca.join_tokens.manager.startswith("SWMTKN-1-")


def test_locking_makes_a_key_rotating_another_and_unlocking_forgets_it() -> None:
    swarm = Swarm(0)
    with pytest.raises(FailedPrecondition, match="not locked"):
        change(swarm, rotate_unlock_key=True)
    cluster = cluster_of(swarm)
    swarm.write(update(_replace(cluster, spec=_replace(cluster.spec, auto_lock_managers=True))))
    assert change(swarm).unlock_key == entropy(32)
    swarm.write(update(_replace(cluster_of(swarm), unlock_key=b"old")))
    assert change(swarm).unlock_key == b"old"
    assert change(swarm, rotate_unlock_key=True).unlock_key == entropy(32)
    unlocked = _replace(cluster_of(swarm).spec, auto_lock_managers=False)
    swarm.write(update(_replace(cluster_of(swarm), spec=unlocked)))
    assert change(swarm).unlock_key == b""


def test_revoked_certificates_are_remembered_for_a_week_beyond_their_end() -> None:
    def revoked(name: str, ended: float) -> RevokedCertificate:
        return RevokedCertificate(node_id=NodeId(name), public_key=name.encode(), expires_at=NOW - ended)

    swarm = with_cluster(revoked=(revoked("old", REVOKED_GRACE_S + 1), revoked("recent", REVOKED_GRACE_S - 1)))
    assert [each.node_id for each in change(swarm).revoked] == ["recent"]


def test_the_clusters_settings_are_checked_and_based_on_what_was_read() -> None:
    swarm = Swarm(0)
    cluster = cluster_of(swarm)
    bad = _replace(cluster.spec, annotations=Annotations(name="other"))
    errors: tuple[tuple[int, object, type[SwarmError]], ...] = (
        (cluster.meta.version, bad, InvalidArgument),
        (cluster.meta.version + 1, cluster.spec, Conflict),
    )
    for version, spec, error in errors:
        with pytest.raises(error):
            update_cluster(swarm.state, UpdateClusterRequest(version=version, spec=spec), entropy, NOW)  # type: ignore[arg-type]


def test_a_lost_node_keeps_its_state_in_lists() -> None:
    swarm = Swarm(2)
    swarm.lose_node("n1")
    assert [node.status.state for node in list_nodes(swarm.state, Filters())] == [NodeState.DOWN, NodeState.READY]
