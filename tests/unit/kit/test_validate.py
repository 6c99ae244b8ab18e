"""Validation: every mistake of a spec is found at once, with its path and a hint."""

from __future__ import annotations

import msgspec
import pytest

from services.kit.model.specs import (
    Annotations,
    ClusterSpec,
    ContainerSpec,
    DispatcherConfig,
    EndpointSpec,
    FileTarget,
    GenericResource,
    GlobalJob,
    HealthCheck,
    Mount,
    Placement,
    PortConfig,
    Replicated,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceSpec,
    SpreadPreference,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import EndpointMode, PublishMode
from services.kit.model.validate import cluster_problems, service_problems

_replace = msgspec.structs.replace

GOOD = ServiceSpec(
    annotations=Annotations(name="web"), task=TaskSpec(driver="process", container=ContainerSpec(command=("true",)))
)


def paths(spec: ServiceSpec) -> list[str]:
    return [problem.path for problem in service_problems(spec)]


def with_task(**fields: object) -> ServiceSpec:
    return _replace(GOOD, task=_replace(GOOD.task, **fields))


def with_container(**fields: object) -> ServiceSpec:
    return with_task(container=_replace(GOOD.task.container, **fields))


def test_a_good_spec_has_no_problems() -> None:
    assert service_problems(GOOD) == ()


def test_five_mistakes_are_reported_at_once_each_with_path_value_and_reason() -> None:
    spec = ServiceSpec(
        annotations=Annotations(name="-web-"),
        mode=Replicated(replicas=-2),
        task=TaskSpec(
            driver="process",
            container=ContainerSpec(),
            resources=ResourceRequirements(limits=Resources(memory_bytes=1024)),
            placement=Placement(constraints=("node.role=manager",)),
        ),
    )
    problems = service_problems(spec)
    assert [problem.path for problem in problems] == [
        "annotations.name",
        "task.container.command",
        "task.resources.limits.memory_bytes",
        "task.placement.constraints[0]",
        "mode.replicas",
    ]
    assert all(problem.reason and problem.hint for problem in problems if problem.path != "mode.replicas")
    assert problems[2].value == "1024"


@pytest.mark.parametrize("name", ["a", "web", "a1", "A_b-c9", "x" * 63])
def test_names_that_are_fine(name: str) -> None:
    assert paths(_replace(GOOD, annotations=Annotations(name=name))) == []


@pytest.mark.parametrize("name", ["", "-a", "a-", "a--b", "a_-b", "a.b", "a b", "ä", "x" * 64, "a\n"])
def test_names_that_are_not(name: str) -> None:
    assert paths(_replace(GOOD, annotations=Annotations(name=name))) == ["annotations.name"]


@pytest.mark.parametrize(
    ("image", "fine"),
    [
        ("nginx", True),
        ("nginx:1.27", True),
        ("library/nginx", True),
        ("localhost:5000/a/b_c:tag", True),
        ("registry.example.org/a@sha256:" + "a" * 64, True),
        ("", False),
        ("NGINX", False),
        ("nginx:", False),
        ("a//b", False),
        ("a@sha256:12", False),
    ],
)
def test_an_image_must_be_a_reference(image: str, fine: bool) -> None:
    spec = with_task(driver="docker", container=ContainerSpec(image=image))
    assert (paths(spec) == []) is fine


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (with_task(driver="No Driver"), "task.driver"),
        (
            with_task(resources=ResourceRequirements(reservations=Resources(nano_cpus=999))),
            "task.resources.reservations.nano_cpus",
        ),
        (with_task(resources=ResourceRequirements(memory_swappiness=101)), "task.resources.memory_swappiness"),
        (
            with_task(
                resources=ResourceRequirements(
                    reservations=Resources(generic=(GenericResource(kind="gpu", names=("a",)),))
                )
            ),
            "task.resources.reservations.generic[0]",
        ),
        (with_task(restart=RestartPolicy(delay_s=-1)), "task.restart.delay_s"),
        (with_task(restart=RestartPolicy(window_s=-1)), "task.restart.window_s"),
        (with_task(placement=Placement(max_replicas=-1)), "task.placement.max_replicas"),
        (with_task(placement=Placement(affinity=("a",), anti_affinity=("b", "a"))), "task.placement.affinity"),
        (with_task(placement=Placement(constraints=("node.colour==red",))), "task.placement.constraints[0]"),
        (
            with_task(placement=Placement(preferences=(SpreadPreference(descriptor="zone"),))),
            "task.placement.preferences[0].descriptor",
        ),
        (with_container(env=("=x",)), "task.container.env[0]"),
        (with_container(args=("{{.Task.Port",)), "task.container.args[0]"),
        (with_container(mounts=(Mount(target="/a"), Mount(target="/a"))), "task.container.mounts"),
        (with_container(mounts=(Mount(target=""),)), "task.container.mounts[0].target"),
        (with_container(health_check=HealthCheck(interval_s=0.0001)), "task.container.health_check.interval_s"),
        (with_container(health_check=HealthCheck(retries=-1)), "task.container.health_check.retries"),
        (with_container(stop_grace_period_s=-1), "task.container.stop_grace_period_s"),
        (
            with_container(secrets=(SecretReference(secret_id="", secret_name="s", target=FileTarget(name="s")),)),  # type: ignore[arg-type]
            "task.container.secrets[0]",
        ),
        (_replace(GOOD, update=UpdateConfig(max_failure_ratio=1.5)), "update.max_failure_ratio"),
        (_replace(GOOD, rollback=UpdateConfig(delay_s=-1)), "rollback.delay_s"),
        (_replace(GOOD, mode=GlobalJob(), update=UpdateConfig(parallelism=2)), "update"),
        (_replace(GOOD, endpoint=EndpointSpec(ports=(PortConfig(target_port=0),))), "endpoint.ports[0].target_port"),
        (
            _replace(GOOD, endpoint=EndpointSpec(ports=(PortConfig(target_port=1, published_port=70_000),))),
            "endpoint.ports[0].published_port",
        ),
        (
            _replace(
                GOOD,
                endpoint=EndpointSpec(
                    ports=(PortConfig(target_port=1, published_port=80), PortConfig(target_port=2, published_port=80))
                ),
            ),
            "endpoint.ports",
        ),
        (
            _replace(GOOD, endpoint=EndpointSpec(mode=EndpointMode.DNSRR, ports=(PortConfig(target_port=1),))),
            "endpoint.ports[0].publish_mode",
        ),
    ],
)
def test_each_rule_names_its_path(spec: ServiceSpec, path: str) -> None:
    assert paths(spec) == [path]


def test_host_ports_go_with_dnsrr() -> None:
    ports = (PortConfig(target_port=1, publish_mode=PublishMode.HOST),)
    assert paths(_replace(GOOD, endpoint=EndpointSpec(mode=EndpointMode.DNSRR, ports=ports))) == []


def test_the_clusters_settings_are_checked_too() -> None:
    spec = ClusterSpec(annotations=Annotations(name="mine"), dispatcher=DispatcherConfig(heartbeat_period_s=0))
    spec = _replace(spec, ca=_replace(spec.ca, node_cert_expiry_s=60))
    found = [problem.path for problem in cluster_problems(spec)]
    assert found == ["annotations.name", "ca.node_cert_expiry_s", "dispatcher.heartbeat_period_s"]
    assert cluster_problems(ClusterSpec()) == ()
