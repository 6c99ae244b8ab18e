"""Docker's words for a service, read into a spec. What Docker's words cannot say is kept from the spec that is changed."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from msgspec.structs import replace

from services.kit.errors import InvalidArgument, Problem
from services.kit.model.ids import ConfigId, NetworkId, SecretId
from services.kit.model.network_rules import ENGINES_OWN
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    FileTarget,
    GenericResource,
    Global,
    GlobalJob,
    HealthCheck,
    Mount,
    NetworkAttachmentConfig,
    Placement,
    Platform,
    PortConfig,
    Privileges,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    ServiceSpec,
    SpreadPreference,
    TaskSpec,
    Ulimit,
    UpdateConfig,
)
from services.kit.model.states import (
    EndpointMode,
    FailureAction,
    MountType,
    Protocol,
    PublishMode,
    RestartCondition,
    UpdateOrder,
)
from services.web.core.json import Body, reading
from services.web.core.spec_out import CONTAINER_RUNTIME, DOCKER

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)


def read_service(value: object, old: ServiceSpec | None, *, registry_auth: str = "") -> ServiceSpec:
    """Return the spec that Docker's words ask for; raises InvalidArgument, and Unimplemented for what there is not."""
    base = ServiceSpec(annotations=Annotations()) if old is None else old
    with reading(value) as body:
        networks = body.children("Networks")
        annotations = Annotations(name=body.text("Name"), labels=body.mapping("Labels"))
        return replace(
            base,
            annotations=annotations,
            task=_task(body.child("TaskTemplate"), base.task, networks, registry_auth),
            mode=_mode(body.child("Mode"), base.mode),
            update=_update(body.child("UpdateConfig"), base.update),
            rollback=_update(body.child("RollbackConfig"), base.rollback),
            endpoint=_endpoint(body.child("EndpointSpec"), base.endpoint),
        )


def _task(body: Body, old: TaskSpec, older: list[Body], registry_auth: str) -> TaskSpec:
    """``older`` are the networks where Docker had them before: beside the template."""
    runtime = body.text("Runtime", CONTAINER_RUNTIME)
    if runtime in {"plugin", "attachment"}:
        raise body.refuse("Runtime", f"swarmbus runs no {runtime}s as services")
    options = {key: text for key, text in old.driver_options.items() if key != "network"}
    network, networks = _networks(body, body.children("Networks") or older, old)
    pids = body.child("Resources").child("Limits").number("Pids")
    container = _container(body.child("ContainerSpec"), old.container)
    return replace(
        old,
        driver=DOCKER if runtime == CONTAINER_RUNTIME else runtime,
        driver_options={**options, "network": network} if network else options,
        container=replace(
            container,
            pids_limit=pids or container.pids_limit,
            registry_auth=registry_auth or old.container.registry_auth,
        ),
        resources=_requirements(body.child("Resources")),
        restart=_restart(body.child("RestartPolicy"), old.restart),
        placement=_placement(body.child("Placement"), old.placement),
        log_driver=_driver(body.child("LogDriver")),
        networks=networks,
        force_update=body.number("ForceUpdate"),
    )


def _networks(body: Body, wanted: list[Body], old: TaskSpec) -> tuple[str, tuple[NetworkAttachmentConfig, ...]]:
    """Return the network of the node's engine that is named, usually none, and those of the swarm, by name or id."""
    known = {each.target: each for each in old.networks}
    found: list[NetworkAttachmentConfig] = []
    for each in wanted:
        target = NetworkId(each.text("Target"))
        base = known.get(target, NetworkAttachmentConfig(target=target))
        found.append(replace(base, aliases=each.texts("Aliases"), driver_options=each.mapping("DriverOpts")))
    own = [each.target for each in found if each.target in ENGINES_OWN]
    if own and len(found) > 1:
        raise body.refuse("Networks", f"{own[0]} is the engine's own network and goes with no other")
    return (own[0], ()) if own else ("", tuple(found))


def _container(body: Body, old: ContainerSpec) -> ContainerSpec:
    dns = body.child("DNSConfig")
    return replace(
        old,
        image=body.text("Image"),
        command=body.texts("Command"),
        args=body.texts("Args"),
        env=body.texts("Env"),
        labels=body.mapping("Labels"),
        hostname=body.text("Hostname"),
        dir=body.text("Dir"),
        user=body.text("User"),
        groups=body.texts("Groups"),
        init=body.flag("Init") if body.has("Init") else None,
        tty=body.flag("TTY"),
        open_stdin=body.flag("OpenStdin"),
        read_only=body.flag("ReadOnly"),
        stop_signal=body.text("StopSignal"),
        stop_grace_period_s=body.seconds("StopGracePeriod", 10.0),
        mounts=tuple(_mount(each, {mount.target: mount for mount in old.mounts}) for each in body.children("Mounts")),
        secrets=tuple(_secret(each) for each in body.children("Secrets")),
        configs=tuple(_config(each) for each in body.children("Configs")),
        health_check=_health(body.child("Healthcheck")) if body.has("Healthcheck") else None,
        privileges=_privileges(body.child("Privileges"), old.privileges),
        capability_add=body.texts("CapabilityAdd"),
        capability_drop=body.texts("CapabilityDrop"),
        isolation=body.text("Isolation", "default") or "default",
        sysctls=body.mapping("Sysctls"),
        ulimits=tuple(
            Ulimit(name=each.text("Name"), soft=each.number("Soft"), hard=each.number("Hard"))
            for each in body.children("Ulimits")
        ),
        oom_score_adj=body.number("OomScoreAdj"),
        pids_limit=body.number("PidsLimit"),
        hosts=body.texts("Hosts"),
        nameservers=dns.texts("Nameservers"),
        dns_search=dns.texts("Search"),
        dns_options=dns.texts("Options"),
    )


def _privileges(body: Body, old: Privileges) -> Privileges:
    return replace(old, no_new_privileges=body.flag("NoNewPrivileges"))


def _mount(body: Body, kept: dict[str, Mount]) -> Mount:
    """Return a mount; what Docker cannot say of it stays as it was."""
    kind = _choice(MountType, body.text("Type"), "Mounts.Type")
    bind, volume, tmpfs = body.child("BindOptions"), body.child("VolumeOptions"), body.child("TmpfsOptions")
    driver = volume.child("DriverConfig")
    target = body.text("Target")
    return replace(
        kept.get(target, Mount(target=target)),
        type=kind,
        source=body.text("Source"),
        read_only=body.flag("ReadOnly"),
        consistency=body.text("Consistency"),
        propagation=bind.text("Propagation"),
        non_recursive=bind.flag("NonRecursive"),
        create_mountpoint=bind.flag("CreateMountpoint"),
        no_copy=volume.flag("NoCopy"),
        labels=volume.mapping("Labels"),
        volume_driver=driver.text("Name"),
        volume_driver_options=driver.mapping("Options"),
        subpath=volume.text("Subpath"),
        tmpfs_size_bytes=tmpfs.number("SizeBytes"),
        tmpfs_mode=tmpfs.number("Mode"),
    )


def _secret(body: Body) -> SecretReference:
    secret_id = SecretId(body.text("SecretID"))
    return SecretReference(secret_id=secret_id, secret_name=body.text("SecretName"), target=_file(body.child("File")))


def _config(body: Body) -> ConfigReference:
    if body.has("Runtime"):
        raise body.refuse("Runtime", "no driver reads a config for itself")
    config_id = ConfigId(body.text("ConfigID"))
    return ConfigReference(config_id=config_id, config_name=body.text("ConfigName"), target=_file(body.child("File")))


def _file(body: Body) -> FileTarget:
    return FileTarget(
        name=body.text("Name"), uid=body.text("UID", "0"), gid=body.text("GID", "0"), mode=body.number("Mode", 0o444)
    )


def _health(body: Body) -> HealthCheck:
    usual = HealthCheck()
    return HealthCheck(
        test=body.texts("Test"),
        interval_s=body.seconds("Interval") or usual.interval_s,
        timeout_s=body.seconds("Timeout") or usual.timeout_s,
        retries=body.number("Retries") or usual.retries,
        start_period_s=body.seconds("StartPeriod"),
        start_interval_s=body.seconds("StartInterval") or usual.start_interval_s,
    )


def _requirements(body: Body) -> ResourceRequirements:
    return ResourceRequirements(
        limits=_resources(body.child("Limits")),
        reservations=_resources(body.child("Reservations")),
        swap_bytes=body.number("SwapBytes") if body.has("SwapBytes") else None,
        memory_swappiness=body.number("MemorySwappiness") if body.has("MemorySwappiness") else None,
    )


def _resources(body: Body) -> Resources:
    body.ignore("Pids")
    counted: dict[str, int] = {}
    named: dict[str, list[str]] = {}
    for each in body.children("GenericResources"):
        discrete, name = each.child("DiscreteResourceSpec"), each.child("NamedResourceSpec")
        if each.has("DiscreteResourceSpec"):
            counted[discrete.text("Kind")] = discrete.number("Value")
        if each.has("NamedResourceSpec"):
            named.setdefault(name.text("Kind"), []).append(name.text("Value"))
    return Resources(
        nano_cpus=body.number("NanoCPUs"),
        memory_bytes=body.number("MemoryBytes"),
        generic=(
            *(GenericResource(kind=kind, count=count) for kind, count in counted.items()),
            *(GenericResource(kind=kind, names=tuple(names)) for kind, names in named.items()),
        ),
    )


def _restart(body: Body, old: RestartPolicy) -> RestartPolicy:
    usual = RestartPolicy()
    return replace(
        old,
        condition=_choice(RestartCondition, body.text("Condition") or "any", "RestartPolicy.Condition"),
        delay_s=body.seconds("Delay", usual.delay_s),
        max_attempts=body.number("MaxAttempts"),
        window_s=body.seconds("Window"),
    )


def _placement(body: Body, old: Placement) -> Placement:
    return replace(
        old,
        constraints=body.texts("Constraints"),
        preferences=tuple(
            SpreadPreference(descriptor=each.child("Spread").text("SpreadDescriptor"))
            for each in body.children("Preferences")
        ),
        platforms=tuple(
            Platform(architecture=each.text("Architecture"), os=each.text("OS")) for each in body.children("Platforms")
        ),
        max_replicas=body.number("MaxReplicas"),
    )


def _driver(body: Body) -> DriverConfig:
    return DriverConfig(name=body.text("Name"), options=body.mapping("Options"))


def _update(body: Body, old: UpdateConfig) -> UpdateConfig:
    usual = UpdateConfig()
    return replace(
        old,
        parallelism=body.number("Parallelism", usual.parallelism),
        delay_s=body.seconds("Delay"),
        failure_action=_choice(FailureAction, body.text("FailureAction") or "pause", "FailureAction"),
        monitor_s=body.seconds("Monitor") or usual.monitor_s,
        max_failure_ratio=body.ratio("MaxFailureRatio"),
        order=_choice(UpdateOrder, body.text("Order") or "stop-first", "Order"),
    )


def _mode(body: Body, old: ServiceMode) -> ServiceMode:
    given = [key for key in ("Replicated", "Global", "ReplicatedJob", "GlobalJob") if body.has(key)]
    if len(given) > 1:
        raise InvalidArgument("must specify only one service mode")
    replicated, job = body.child("Replicated"), body.child("ReplicatedJob")
    body.ignore("Global", "GlobalJob")
    match given[0] if given else "Replicated":
        case "Global":
            return Global()
        case "GlobalJob":
            return old if isinstance(old, GlobalJob) else GlobalJob()
        case "ReplicatedJob":
            most = job.number("MaxConcurrent", 1)
            base = old if isinstance(old, ReplicatedJob) else ReplicatedJob()
            return replace(base, max_concurrent=most, total_completions=job.number("TotalCompletions", most))
        case _:
            return Replicated(replicas=replicated.number("Replicas", 1))


def _endpoint(body: Body, old: EndpointSpec) -> EndpointSpec:
    kept = {(each.protocol, each.target_port): each for each in old.ports}
    return replace(
        old,
        mode=_choice(EndpointMode, body.text("Mode") or "vip", "EndpointSpec.Mode"),
        ports=tuple(_port(each, kept) for each in body.children("Ports")),
    )


def _port(body: Body, kept: dict[tuple[Protocol, int], PortConfig]) -> PortConfig:
    """Return a port; what Docker cannot say of it stays as it was."""
    protocol = _choice(Protocol, body.text("Protocol") or "tcp", "Ports.Protocol")
    target = body.number("TargetPort")
    return replace(
        kept.get((protocol, target), PortConfig(target_port=target)),
        name=body.text("Name"),
        protocol=protocol,
        target_port=target,
        published_port=body.number("PublishedPort"),
        publish_mode=_choice(PublishMode, body.text("PublishMode") or "ingress", "Ports.PublishMode"),
    )


def _choice(kind: type[ChoiceT], text: str, path: str) -> ChoiceT:
    try:
        return kind(text)
    except ValueError:
        hint = "use " + ", ".join(member.value for member in kind)
        raise InvalidArgument.of((Problem(path=path, reason="is not known", value=text[:80], hint=hint),)) from None
