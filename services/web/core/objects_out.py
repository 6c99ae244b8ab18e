"""Objects in Docker's words: nodes, services, tasks, secrets, configs, and the swarm itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from services.kit.messages.control import ServiceStatus
from services.kit.model.objects import Cluster, Config, Meta, NetworkAddresses, Node, Secret, Service, SpecVersion, Task
from services.kit.model.specs import ServiceSpec
from services.kit.model.states import NodeState, Reachability, Role, TaskState, UpdateState
from services.web.core import spec_out
from services.web.core.json import Json, nanoseconds, without_empty
from services.web.core.times import rfc3339

_UPDATE_STATES = {
    UpdateState.UPDATING: "updating",
    UpdateState.PAUSED: "paused",
    UpdateState.COMPLETED: "completed",
    UpdateState.ROLLBACK_STARTED: "rollback_started",
    UpdateState.ROLLBACK_PAUSED: "rollback_paused",
    UpdateState.ROLLBACK_COMPLETED: "rollback_completed",
}
_NODE_STATES = {
    NodeState.UNKNOWN: "unknown",
    NodeState.DOWN: "down",
    NodeState.READY: "ready",
    NodeState.DISCONNECTED: "disconnected",
}


def _head(object_id: str, meta: Meta) -> Json:
    return {
        "ID": object_id,
        "Version": {"Index": meta.version},
        "CreatedAt": rfc3339(meta.created_at),
        "UpdatedAt": rfc3339(meta.updated_at),
    }


def node(found: Node) -> Json:
    """Return a node."""
    description = found.description
    manager = found.manager_status
    return {
        **_head(found.id, found.meta),
        "Spec": {
            **without_empty({"Name": found.spec.annotations.name}),
            "Labels": dict(found.spec.annotations.labels),
            "Role": found.spec.desired_role.value,
            "Availability": found.spec.availability.value,
        },
        "Description": {
            "Hostname": description.hostname,
            "Platform": {"Architecture": description.platform.architecture, "OS": description.platform.os},
            "Resources": spec_out.resources(description.resources),
            "Engine": {
                **without_empty(
                    {"EngineVersion": description.engine.version, "Labels": dict(description.engine.labels)}
                ),
                "Plugins": [
                    {"Type": kind, "Name": name}
                    for kind, _, name in (plugin.partition("/") for plugin in description.engine.plugins)
                ],
            },
            "TLSInfo": {
                "TrustRoot": description.tls.trust_root.decode(errors="replace"),
                "CertIssuerSubject": base64.b64encode(description.tls.cert_issuer_subject).decode(),
                "CertIssuerPublicKey": base64.b64encode(description.tls.cert_issuer_public_key).decode(),
            },
        },
        "Status": {
            "State": _NODE_STATES[found.status.state],
            **without_empty({"Message": found.status.message}),
            "Addr": found.status.addr,
        },
        **(
            {}
            if manager is None
            else {
                "ManagerStatus": {
                    **without_empty({"Leader": manager.leader}),
                    "Reachability": Reachability(manager.reachability).value,
                    "Addr": manager.raft_addr,
                }
            }
        ),
    }


def service(found: Service, status: ServiceStatus | None = None) -> Json:
    """Return a service; with counts of its tasks where they were asked for."""
    ports = found.endpoint.ports if found.endpoint is not None else ()
    held = found.endpoint.virtual_ips if found.endpoint is not None else ()
    virtual = [{"NetworkID": each.network_id, "Addr": address} for each in held for address in each.addresses]
    shown: Json = {
        **_head(found.id, found.meta),
        "Spec": spec_out.service_spec(found.spec),
        "Endpoint": {
            "Spec": spec_out.endpoint_spec(found.spec.endpoint),
            **without_empty({"Ports": [spec_out.port(each) for each in ports], "VirtualIPs": virtual}),
        },
    }
    if found.previous_spec is not None:
        shown["PreviousSpec"] = spec_out.service_spec(found.previous_spec)
    update = found.update_status
    if update is not None:
        shown["UpdateStatus"] = {
            "State": _UPDATE_STATES[update.state],
            "StartedAt": rfc3339(update.started_at),
            **({"CompletedAt": rfc3339(update.completed_at)} if update.completed_at else {}),
            "Message": update.message,
        }
    if found.job_status is not None:
        shown["JobStatus"] = {
            "JobIteration": {"Index": found.job_status.iteration},
            "LastExecution": rfc3339(found.job_status.last_execution),
        }
    if status is not None:
        shown["ServiceStatus"] = {
            "RunningTasks": status.running,
            "DesiredTasks": status.desired,
            "CompletedTasks": status.completed,
        }
    return shown


def task(found: Task, spec: SpecVersion | None, labels: Mapping[str, str]) -> Json:
    """Return a task with the template that it runs."""
    status = found.status
    container = without_empty({"ContainerID": status.container_id, "PID": status.pid})
    if status.exit_code is not None or container:
        container["ExitCode"] = status.exit_code or 0
    ports = [
        {
            **without_empty({"Name": each.name}),
            "Protocol": each.protocol,
            "TargetPort": each.target_port,
            "PublishedPort": each.port,
            "PublishMode": "host",
        }
        for each in status.ports
    ]
    return {
        **_head(found.id, found.meta),
        "Labels": dict(labels),
        "Spec": spec_out.task_template(spec.task) if spec is not None else {},
        "ServiceID": found.service_id,
        **without_empty({"Slot": found.slot, "NodeID": found.node_id or ""}),
        "Status": {
            "Timestamp": rfc3339(status.timestamp),
            "State": state_word(status.state),
            **without_empty({"Message": status.message, "Err": status.error, "ContainerStatus": container}),
            "PortStatus": without_empty({"Ports": ports}),
        },
        "DesiredState": state_word(found.desired_state),
        **without_empty({"NetworksAttachments": [*map(_attachment, found.networks)]}),
        **({"JobIteration": {"Index": found.job_iteration}} if found.job_iteration else {}),
    }


def _attachment(held: NetworkAddresses) -> Json:
    return {"Network": {"ID": held.network_id}, "Addresses": list(held.addresses)}


def state_word(state: TaskState) -> str:
    """Return a state as Docker names it."""
    return state.name.lower()


def secret(found: Secret) -> Json:
    """Return a secret, without its data."""
    spec = found.spec
    return {
        **_head(found.id, found.meta),
        "Spec": {
            "Name": spec.annotations.name,
            "Labels": dict(spec.annotations.labels),
            **without_empty(
                {
                    "Driver": without_empty({"Name": spec.driver.name, "Options": dict(spec.driver.options)}),
                    "Templating": {"Name": spec.templating} if spec.templating else {},
                }
            ),
        },
    }


def config(found: Config) -> Json:
    """Return a config with its data."""
    spec = found.spec
    return {
        **_head(found.id, found.meta),
        "Spec": {
            "Name": spec.annotations.name,
            "Labels": dict(spec.annotations.labels),
            "Data": base64.b64encode(spec.data).decode(),
            **without_empty({"Templating": {"Name": spec.templating} if spec.templating else {}}),
        },
    }


def swarm(cluster: Cluster, *, tokens: bool) -> Json:
    """Return the swarm, with its join tokens for those who may see them."""
    shown = {
        **_head(cluster.id, cluster.meta),
        "Spec": swarm_spec(cluster),
        "TLSInfo": {"TrustRoot": cluster.root_ca.ca_cert.decode(errors="replace")},
        "RootRotationInProgress": cluster.root_ca.rotation is not None,
        "DefaultAddrPool": [],
        "SubnetSize": 0,
        "DataPathPort": 0,
    }
    if tokens:
        join = cluster.root_ca.join_tokens
        shown["JoinTokens"] = {"Worker": join.worker, "Manager": join.manager}
    return shown


def swarm_spec(cluster: Cluster) -> Json:
    """Return the swarm's settings."""
    spec = cluster.spec
    return {
        "Name": spec.annotations.name,
        "Labels": dict(spec.annotations.labels),
        "Orchestration": {"TaskHistoryRetentionLimit": spec.orchestration.task_history_retention_limit},
        "Raft": {
            "SnapshotInterval": spec.raft.snapshot_interval,
            "KeepOldSnapshots": spec.raft.keep_old_snapshots,
            "LogEntriesForSlowFollowers": spec.raft.log_entries_for_slow_followers,
            "ElectionTick": 0,
            "HeartbeatTick": 0,
        },
        "Dispatcher": {"HeartbeatPeriod": nanoseconds(spec.dispatcher.heartbeat_period_s)},
        "CAConfig": {
            "NodeCertExpiry": nanoseconds(spec.ca.node_cert_expiry_s),
            **without_empty(
                {
                    "ExternalCAs": [
                        {"Protocol": each.protocol, "URL": each.url, "Options": dict(each.options)}
                        for each in spec.ca.external_cas
                    ]
                }
            ),
            **without_empty({"ForceRotate": spec.ca.force_rotate}),
        },
        "TaskDefaults": without_empty(
            {"LogDriver": without_empty({"Name": spec.log_driver.name, "Options": dict(spec.log_driver.options)})}
        ),
        "EncryptionConfig": {"AutoLockManagers": spec.auto_lock_managers},
    }


def swarm_info(cluster: Cluster | None, nodes: tuple[Node, ...], here: str, error: str = "") -> Json:
    """Return the swarm's part of ``info``."""
    own = next((each for each in nodes if each.id == here), None)
    managers = [each for each in nodes if each.manager_status is not None]
    info: Json = {
        "NodeID": here,
        "NodeAddr": own.status.addr if own is not None else "",
        "LocalNodeState": "active" if cluster is not None else "error",
        "ControlAvailable": cluster is not None,
        "Error": error,
        "RemoteManagers": [{"NodeID": each.id, "Addr": each.remote_addr} for each in managers],
    }
    if cluster is not None:
        info["Nodes"] = len(nodes)
        info["Managers"] = sum(each.role is Role.MANAGER for each in nodes)
        info["Cluster"] = swarm(cluster, tokens=False)
    return info


def mode_word(spec: ServiceSpec) -> str:
    """Return a service's mode as a filter names it."""
    return str(type(spec.mode).__struct_config__.tag)
