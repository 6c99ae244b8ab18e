"""A service's spec in Docker's words. spec_in.py reads them back: what one writes the other understands."""

from __future__ import annotations

from services.kit.model.specs import (
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    GenericResource,
    Global,
    GlobalJob,
    HealthCheck,
    Mount,
    NetworkAttachmentConfig,
    Placement,
    PortConfig,
    Privileges,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import MountType
from services.web.core.json import Json, nanoseconds, without_empty

DOCKER = "docker"
CONTAINER_RUNTIME = "container"


def service_spec(spec: ServiceSpec) -> Json:
    """Return a spec."""
    return {
        "Name": spec.annotations.name,
        "Labels": dict(spec.annotations.labels),
        "TaskTemplate": task_template(spec.task),
        "Mode": _mode(spec.mode),
        "UpdateConfig": _update(spec.update),
        "RollbackConfig": _update(spec.rollback),
        "EndpointSpec": endpoint_spec(spec.endpoint),
    }


def task_template(task: TaskSpec) -> Json:
    """Return a template. The runtime is the driver, but for docker's, which Docker calls container."""
    network = task.driver_options.get("network", "")
    return {
        "ContainerSpec": _container(task.container),
        **without_empty({"Resources": _requirements(task.resources, task.container.pids_limit)}),
        "RestartPolicy": _restart(task.restart),
        "Placement": _placement(task.placement),
        **without_empty({"Networks": [{"Target": network}] if network else [*map(_attachment, task.networks)]}),
        **without_empty({"LogDriver": _driver(task.log_driver)}),
        "ForceUpdate": task.force_update,
        "Runtime": CONTAINER_RUNTIME if task.driver == DOCKER else task.driver,
    }


def _attachment(wish: NetworkAttachmentConfig) -> Json:
    more = {"Aliases": list(wish.aliases), "DriverOpts": dict(wish.driver_options)}
    return {"Target": wish.target, **without_empty(more)}


def _container(container: ContainerSpec) -> Json:
    dns = without_empty(
        {
            "Nameservers": list(container.nameservers),
            "Search": list(container.dns_search),
            "Options": list(container.dns_options),
        }
    )
    optional: Json = {
        "Labels": dict(container.labels),
        "Command": list(container.command),
        "Args": list(container.args),
        "Hostname": container.hostname,
        "Env": list(container.env),
        "Dir": container.dir,
        "User": container.user,
        "Groups": list(container.groups),
        "Privileges": _privileges(container.privileges),
        "StopSignal": container.stop_signal,
        "TTY": container.tty,
        "OpenStdin": container.open_stdin,
        "ReadOnly": container.read_only,
        "Mounts": [_mount(mount) for mount in container.mounts],
        "Hosts": [_host(line) for line in container.hosts],
        "Secrets": [
            {
                "SecretID": each.secret_id,
                "SecretName": each.secret_name,
                "File": _file(each.target.name, each.target.uid, each.target.gid, each.target.mode),
            }
            for each in container.secrets
        ],
        "Configs": [
            {
                "ConfigID": each.config_id,
                "ConfigName": each.config_name,
                **(
                    {"Runtime": {}}
                    if each.target is None
                    else {"File": _file(each.target.name, each.target.uid, each.target.gid, each.target.mode)}
                ),
            }
            for each in container.configs
        ],
        "Sysctls": dict(container.sysctls),
        "CapabilityAdd": list(container.capability_add),
        "CapabilityDrop": list(container.capability_drop),
        "Ulimits": [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in container.ulimits],
        "OomScoreAdj": container.oom_score_adj,
    }
    return {
        "Image": container.image,
        **without_empty(optional),
        **({} if container.init is None else {"Init": container.init}),
        **({} if container.health_check is None else {"Healthcheck": _health(container.health_check)}),
        "StopGracePeriod": nanoseconds(container.stop_grace_period_s),
        **({"DNSConfig": dns} if dns else {}),
        "Isolation": container.isolation or "default",
    }


def _file(name: str, uid: str, gid: str, mode: int) -> Json:
    return {"Name": name, "UID": uid, "GID": gid, "Mode": mode}


def _host(line: str) -> str:
    """Return ``address name``; the model keeps either order, ``name:address`` as well."""
    if " " in line:
        return line
    name, _, address = line.partition(":")
    return f"{address} {name}"


def _privileges(privileges: Privileges) -> Json:
    return {"NoNewPrivileges": True} if privileges.no_new_privileges else {}


def _mount(mount: Mount) -> Json:
    common = {
        "Type": mount.type.value,
        **without_empty(
            {
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
                "Consistency": mount.consistency,
            }
        ),
    }
    match mount.type:
        case MountType.BIND:
            bind = {
                "Propagation": mount.propagation,
                "NonRecursive": mount.non_recursive,
                "CreateMountpoint": mount.create_mountpoint,
            }
            return {**common, **without_empty({"BindOptions": without_empty(bind)})}
        case MountType.VOLUME:
            driver = without_empty({"Name": mount.volume_driver, "Options": dict(mount.volume_driver_options)})
            volume = {
                "NoCopy": mount.no_copy,
                "Labels": dict(mount.labels),
                "DriverConfig": driver,
                "Subpath": mount.subpath,
            }
            return {**common, **without_empty({"VolumeOptions": without_empty(volume)})}
        case MountType.TMPFS:
            tmpfs = without_empty({"SizeBytes": mount.tmpfs_size_bytes, "Mode": mount.tmpfs_mode})
            return {**common, **without_empty({"TmpfsOptions": tmpfs})}
        case _:
            return common


def _health(check: HealthCheck) -> Json:
    return without_empty(
        {
            "Test": list(check.test),
            "Interval": nanoseconds(check.interval_s),
            "Timeout": nanoseconds(check.timeout_s),
            "StartPeriod": nanoseconds(check.start_period_s),
            "StartInterval": nanoseconds(check.start_interval_s),
            "Retries": check.retries,
        }
    )


def _requirements(needs: ResourceRequirements, pids: int) -> Json:
    swap: Json = {} if needs.swap_bytes is None else {"SwapBytes": needs.swap_bytes}
    swappiness: Json = {} if needs.memory_swappiness is None else {"MemorySwappiness": needs.memory_swappiness}
    limits = {**resources(needs.limits), **without_empty({"Pids": pids})}
    amounts = {"Limits": limits, "Reservations": resources(needs.reservations)}
    return {**without_empty(amounts), **swap, **swappiness}


def resources(amount: Resources) -> Json:
    """Return an amount of resources."""
    return without_empty(
        {
            "NanoCPUs": amount.nano_cpus,
            "MemoryBytes": amount.memory_bytes,
            "GenericResources": [each for item in amount.generic for each in _generic(item)],
        }
    )


def _generic(item: GenericResource) -> list[Json]:
    if item.names:
        return [{"NamedResourceSpec": {"Kind": item.kind, "Value": name}} for name in item.names]
    return [{"DiscreteResourceSpec": {"Kind": item.kind, "Value": item.count}}]


def _restart(policy: RestartPolicy) -> Json:
    return {
        "Condition": policy.condition.value,
        "Delay": nanoseconds(policy.delay_s),
        "MaxAttempts": policy.max_attempts,
        **without_empty({"Window": nanoseconds(policy.window_s)}),
    }


def _placement(placement: Placement) -> Json:
    return without_empty(
        {
            "Constraints": list(placement.constraints),
            "Preferences": [{"Spread": {"SpreadDescriptor": each.descriptor}} for each in placement.preferences],
            "MaxReplicas": placement.max_replicas,
            "Platforms": [
                without_empty({"Architecture": each.architecture, "OS": each.os}) for each in placement.platforms
            ],
        }
    )


def _driver(driver: DriverConfig) -> Json:
    return without_empty({"Name": driver.name, "Options": dict(driver.options)})


def _update(update: UpdateConfig) -> Json:
    return {
        "Parallelism": update.parallelism,
        **without_empty({"Delay": nanoseconds(update.delay_s)}),
        "FailureAction": update.failure_action.value,
        "Monitor": nanoseconds(update.monitor_s),
        "MaxFailureRatio": update.max_failure_ratio,
        "Order": update.order.value,
    }


def _mode(mode: ServiceMode) -> Json:
    match mode:
        case Replicated():
            return {"Replicated": {"Replicas": mode.replicas}}
        case Global():
            return {"Global": {}}
        case ReplicatedJob():
            return {"ReplicatedJob": {"MaxConcurrent": mode.max_concurrent, "TotalCompletions": mode.total_completions}}
        case GlobalJob():
            return {"GlobalJob": {}}


def endpoint_spec(endpoint: EndpointSpec) -> Json:
    """Return an endpoint as it is wanted."""
    return {"Mode": endpoint.mode.value, **without_empty({"Ports": [port(each) for each in endpoint.ports]})}


def port(published: PortConfig) -> Json:
    """Return a published port."""
    return {
        **without_empty({"Name": published.name}),
        "Protocol": published.protocol.value,
        "TargetPort": published.target_port,
        **without_empty({"PublishedPort": published.published_port}),
        "PublishMode": published.publish_mode.value,
    }
