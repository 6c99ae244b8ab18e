"""Docker's words for a node's spec and the swarm's settings, read into ours."""

from __future__ import annotations

from msgspec.structs import replace

from services.kit.errors import InvalidArgument
from services.kit.model.specs import Annotations, ClusterSpec, DriverConfig, ExternalCa, NodeSpec
from services.kit.model.states import Availability, Role
from services.web.core.json import Body, reading


def read_node(value: object, old: NodeSpec) -> NodeSpec:
    """Return a node's spec."""
    with reading(value) as body:
        name = body.text("Name", old.annotations.name)
        role, availability = body.text("Role"), body.text("Availability")
        if role not in {each.value for each in Role}:
            raise InvalidArgument(f"invalid Role: {role!r}")
        if availability not in {each.value for each in Availability}:
            raise InvalidArgument(f"invalid Availability: {availability!r}")
        return replace(
            old,
            annotations=Annotations(name=name, labels=body.mapping("Labels")),
            desired_role=Role(role),
            availability=Availability(availability),
        )


def read_swarm(value: object, old: ClusterSpec) -> ClusterSpec:
    """Return the swarm's settings; a part that is left out stays as it is, as in Docker."""
    with reading(value) as body:
        raft = body.child("Raft")
        raft.ignore("ElectionTick", "HeartbeatTick")
        ca = body.child("CAConfig")
        log = body.child("TaskDefaults").child("LogDriver")
        orchestration, dispatcher = body.child("Orchestration"), body.child("Dispatcher")
        limit = orchestration.number("TaskHistoryRetentionLimit", old.orchestration.task_history_retention_limit)
        labels = body.mapping("Labels") if body.has("Labels") else old.annotations.labels
        name = body.text("Name") or old.annotations.name
        return replace(
            old,
            annotations=Annotations(name=name, labels=labels),
            orchestration=replace(old.orchestration, task_history_retention_limit=limit),
            raft=replace(
                old.raft,
                snapshot_interval=raft.number("SnapshotInterval") or old.raft.snapshot_interval,
                keep_old_snapshots=raft.number("KeepOldSnapshots", old.raft.keep_old_snapshots),
                log_entries_for_slow_followers=raft.number("LogEntriesForSlowFollowers")
                or old.raft.log_entries_for_slow_followers,
            ),
            dispatcher=replace(
                old.dispatcher,
                heartbeat_period_s=dispatcher.seconds("HeartbeatPeriod") or old.dispatcher.heartbeat_period_s,
            ),
            ca=replace(
                old.ca,
                node_cert_expiry_s=ca.seconds("NodeCertExpiry") or old.ca.node_cert_expiry_s,
                external_cas=tuple(_external(each) for each in ca.children("ExternalCAs")),
                force_rotate=ca.number("ForceRotate", old.ca.force_rotate),
            ),
            log_driver=DriverConfig(name=log.text("Name"), options=log.mapping("Options")),
            auto_lock_managers=body.child("EncryptionConfig").flag("AutoLockManagers"),
        )


def _external(body: Body) -> ExternalCa:
    return ExternalCa(
        protocol=body.text("Protocol") or "cfssl",
        url=body.text("URL"),
        options=body.mapping("Options"),
        ca_cert=body.text("CACert").encode(),
    )
