"""A service's spec in Docker's words and back."""

from __future__ import annotations

import json
from enum import StrEnum
from types import NoneType, UnionType
from typing import NewType, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.kit.errors import InvalidArgument, Unimplemented
from services.kit.model.ids import NetworkId, SecretId
from services.kit.model.objects import Network
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    FileTarget,
    GenericResource,
    Global,
    GlobalJob,
    HealthCheck,
    Mount,
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
from services.web.core.networks import network, read_network
from services.web.core.spec_in import read_service
from services.web.core.spec_out import service_spec, task_template

FULL = ServiceSpec(
    annotations=Annotations(name="web", labels={"a": "b"}),
    task=TaskSpec(
        driver="process",
        driver_options={"network": "host", "log_bytes_max": "9"},
        container=ContainerSpec(
            image="nginx:1",
            command=("/bin/run",),
            args=("-x", "1"),
            env=("A=1",),
            labels={"c": "d"},
            hostname="h",
            dir="/srv",
            user="me",
            groups=("video",),
            init=True,
            tty=True,
            open_stdin=True,
            read_only=True,
            stop_signal="SIGINT",
            stop_grace_period_s=7.5,
            mounts=(
                Mount(type=MountType.BIND, source="/a", target="/b", propagation="rslave", read_only=True),
                Mount(
                    type=MountType.VOLUME, source="v", target="/c", no_copy=True, volume_driver="nfs", labels={"x": "y"}
                ),
                Mount(type=MountType.TMPFS, target="/d", tmpfs_size_bytes=64, tmpfs_mode=0o1777),
            ),
            secrets=(
                SecretReference(secret_id=SecretId("s1"), secret_name="s", target=FileTarget(name="f", mode=0o400)),
            ),
            health_check=HealthCheck(
                test=("CMD", "true"), interval_s=1.0, timeout_s=2.0, retries=4, start_period_s=3.0
            ),
            privileges=Privileges(no_new_privileges=True),
            capability_add=("CAP_KILL",),
            capability_drop=("ALL",),
            sysctls={"net.core.somaxconn": "9"},
            ulimits=(Ulimit(name="nofile", soft=1, hard=2),),
            oom_score_adj=-5,
            pids_limit=12,
            hosts=("10.0.0.1 db",),
            nameservers=("10.0.0.53",),
            dns_search=("a.org",),
            dns_options=("ndots:2",),
            registry_auth="secret",
            devices=("/dev/fuse",),
        ),
        resources=ResourceRequirements(
            limits=Resources(nano_cpus=5, memory_bytes=6),
            reservations=Resources(generic=(GenericResource(kind="gpu", count=2),)),
            swap_bytes=0,
            memory_swappiness=0,
        ),
        restart=RestartPolicy(condition=RestartCondition.NONE, delay_s=0.0, max_attempts=3, window_s=9.0),
        placement=Placement(
            constraints=("node.role==worker",),
            preferences=(SpreadPreference(descriptor="node.labels.z"),),
            platforms=(Platform(os="linux"),),
            max_replicas=2,
        ),
        log_driver=DriverConfig(name="syslog", options={"tag": "x"}),
        force_update=3,
    ),
    mode=Replicated(replicas=0),
    update=UpdateConfig(
        parallelism=0,
        delay_s=1.5,
        failure_action=FailureAction.ROLLBACK,
        monitor_s=2.0,
        max_failure_ratio=0.25,
        order=UpdateOrder.START_FIRST,
    ),
    endpoint=EndpointSpec(
        mode=EndpointMode.DNSRR,
        ports=(PortConfig(target_port=80, published_port=8080, protocol=Protocol.UDP, publish_mode=PublishMode.HOST),),
    ),
)


def through_json(spec: ServiceSpec) -> object:
    return json.loads(json.dumps(service_spec(spec)))


def filled(kind: object, name: str = "x") -> object:
    """Return a value that differs from the usual one in every field, whatever fields the model has by now."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {UnionType, Union}:
        return filled(next(each for each in arguments if each is not NoneType), name)
    if origin is tuple:
        return (filled(arguments[0], name),)
    if origin is dict:
        return {"k": "v"}
    if isinstance(kind, NewType):
        return name
    assert isinstance(kind, type), kind
    if issubclass(kind, Mount):
        return Mount(type=MountType.TMPFS, target="/d", tmpfs_size_bytes=7, tmpfs_mode=7, tmpfs_options="noexec")
    if issubclass(kind, msgspec.Struct):
        return kind(**{field.name: filled(field.type, field.name) for field in msgspec.structs.fields(kind)})
    if issubclass(kind, StrEnum):
        return list(kind)[-1]
    return {str: name, int: 7, float: 2.5, bool: True, bytes: b"x"}[kind]


def test_no_field_of_the_model_is_lost_however_many_there_are() -> None:
    """A field that Docker's words cannot say must come from the spec that is changed; this fails when a new one is forgotten."""
    spec = filled(ServiceSpec)
    assert isinstance(spec, ServiceSpec)
    container = replace(spec.task.container, hosts=("10.0.0.1 db",))
    task = replace(spec.task, container=container, driver_options={"k": "v"})
    generic = (GenericResource(kind="gpu", count=2), GenericResource(kind="fpga", names=("a",)))
    needs = replace(
        task.resources,
        limits=replace(task.resources.limits, generic=generic),
        reservations=replace(task.resources.reservations, generic=generic),
    )
    for mode in (Replicated(replicas=7), filled(ReplicatedJob), filled(GlobalJob), Global()):
        wanted = replace(spec, task=replace(task, resources=needs), mode=mode)
        assert read_service(through_json(wanted), wanted) == wanted
    own = replace(spec, task=replace(task, networks=(), resources=needs, driver_options={"network": "host", "k": "v"}))
    assert read_service(through_json(own), own) == own


@pytest.mark.parametrize(
    "spec",
    [
        FULL,
        ServiceSpec(annotations=Annotations(name="x"), mode=Global()),
        ServiceSpec(annotations=Annotations(name="x"), mode=ReplicatedJob(max_concurrent=2, total_completions=9)),
        ServiceSpec(annotations=Annotations(name="x"), mode=GlobalJob()),
    ],
)
def test_what_is_shown_and_sent_back_changes_nothing(spec: ServiceSpec) -> None:
    """The docker command changes a service by sending back what it was shown: nothing may be lost on the way."""
    assert read_service(through_json(spec), spec) == spec


def test_what_dockers_words_cannot_say_is_only_lost_for_a_new_service() -> None:
    made = read_service(through_json(FULL), None)
    container = replace(FULL.task.container, registry_auth="", devices=())
    assert made == replace(FULL, task=replace(FULL.task, container=container, driver_options={"network": "host"}))


def test_a_minimal_request_gets_the_usual_values() -> None:
    made = read_service({"Name": "x", "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}}}, None)
    assert made == ServiceSpec(annotations=Annotations(name="x"), task=TaskSpec(container=ContainerSpec(image="nginx")))


def test_keys_are_known_in_letters_of_either_case() -> None:
    body = {"name": "x", "Mode": {"replicated": {"replicas": 2}}, "tasktemplate": {"containerspec": {"image": "a"}}}
    assert read_service(body, None).mode == Replicated(replicas=2)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            {"TaskTemplate": {"ContainerSpec": {"CredentialSpec": {"File": "x"}}}},
            "TaskTemplate.ContainerSpec.CredentialSpec",
        ),
        ({"TaskTemplate": {"ContainerSpec": {"Privileges": {"Seccomp": {"Mode": "x"}}}}}, "Privileges.Seccomp"),
        (
            {"TaskTemplate": {"ContainerSpec": {"Mounts": [{"Type": "bind", "ImageOptions": {"a": 1}}]}}},
            "Mounts[0].ImageOptions",
        ),
        ({"TaskTemplate": {"Networks": [{"Target": "host"}, {"Target": "mine"}]}}, "goes with no other"),
        ({"TaskTemplate": {"Runtime": "plugin"}}, "runs no plugins"),
        ({"Nonsense": 1, "Zero": 0, "Nothing": None}, "Nonsense"),
    ],
)
def test_what_swarmbus_does_not_have_is_refused_by_its_name(body: dict[str, object], told: str) -> None:
    with pytest.raises(Unimplemented) as caught:
        read_service({"Name": "x", **body}, None)
    assert told in str(caught.value)
    assert "Zero" not in str(caught.value)


def test_networks_of_the_swarm_and_of_the_engine_are_told_apart() -> None:
    wish = {"Target": "mine", "Aliases": ["db"], "DriverOpts": {"a": "b"}}
    task = read_service({"Name": "x", "TaskTemplate": {"Networks": [wish]}}, None).task
    assert (task.networks[0].target, task.networks[0].aliases) == ("mine", ("db",))
    assert task_template(task)["Networks"] == [wish]
    task = read_service({"Name": "x", "Networks": [{"Target": "bridge"}]}, None).task
    assert (task.networks, task.driver_options) == ((), {"network": "bridge"})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"Driver": "overlay"}, "there are no overlay networks"),
        ({"ConfigFrom": {"Network": "other"}}, "ConfigOnly"),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "AuxiliaryAddresses": {"a": "10.0.0.9"}}]}}, "Auxiliary"),
        ({"Nonsense": 1}, "Nonsense"),
    ],
)
def test_what_a_network_cannot_have_is_refused_by_its_name(body: dict[str, object], told: str) -> None:
    with pytest.raises(Unimplemented, match=told):
        read_network({"Name": "x", **body})


def test_a_network_is_read_and_shown_in_dockers_words() -> None:
    config = {"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.128/25", "Gateway": "10.1.0.1"}
    body = {"Name": "back", "CheckDuplicate": True, "Driver": "bridge", "Internal": True, "IPAM": {"Config": [config]}}
    spec = read_network({**body, "Labels": {"a": "b"}, "Options": {"mtu": "1400"}})
    shown = network(Network(id=NetworkId("n"), spec=spec, ipam=spec.ipam))
    assert shown["IPAM"]["Config"] == [config]
    assert (shown["Scope"], shown["Driver"], shown["Internal"], shown["Ingress"]) == ("swarm", "bridge", True, False)
    assert (shown["Labels"], shown["Options"]) == ({"a": "b"}, {"mtu": "1400"})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"Name": 5}, "Name: is not str"),
        ({"Mode": {"Replicated": {}, "Global": {}}}, "only one service mode"),
        ({"Mode": {"Replicated": {"Replicas": True}}}, "is not int"),
        ({"TaskTemplate": {"ContainerSpec": {"Env": ["A=1", 2]}}}, "a list of strings"),
        ({"TaskTemplate": {"RestartPolicy": {"Condition": "sometimes"}}}, "is not known"),
        ({"TaskTemplate": []}, "is not dict"),
    ],
)
def test_what_is_wrong_is_refused(body: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_service({"Name": "x", **body}, None)
    assert told in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Name", "TaskTemplate", "ContainerSpec", "Mounts", "Mode", "Replicated", "Ports", "Env", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_is_sent_is_a_spec_or_an_error_of_the_users(body: object) -> None:
    try:
        read_service(body, None)
    except (InvalidArgument, Unimplemented):
        return
