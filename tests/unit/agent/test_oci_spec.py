"""What an OCI runtime is told of a task; no field of the spec is dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.agent.core.bundle import NodeFacts, make_bundle
from services.agent.drivers.api import Rejected, Unsupported
from services.agent.drivers.oci_spec import check, make_config
from services.agent.drivers.task_ports import ChosenPort
from services.kit.model.specs import ContainerSpec, HealthCheck, Mount, Platform, Privileges, TaskSpec, Ulimit
from services.kit.model.states import MountType
from tests.support.agents import NODE, make_spec, make_task

SILENT = {
    "image": "it is mounted",
    "stop_signal": "it goes with the stop",
    "stop_grace_period_s": "it goes with the stop",
    "health_check": "the agent asks",
    "secrets": "they come as files",
    "configs": "they come as files",
    "registry_auth": "refused",
}
SAMPLES: dict[str, object] = {
    "command": ("/x",),
    "args": ("x",),
    "env": ("A=b",),
    "labels": {"a": "b"},
    "hostname": "h",
    "dir": "/d",
    "user": "7:8",
    "groups": ("9",),
    "init": True,
    "tty": True,
    "open_stdin": True,
    "read_only": True,
    "mounts": (Mount(type=MountType.TMPFS, target="/t"),),
    "privileges": Privileges(no_new_privileges=True),
    "capability_add": ("NET_ADMIN",),
    "capability_drop": ("CHOWN",),
    "isolation": "hyperv",
    "sysctls": {"a": "b"},
    "ulimits": (Ulimit(name="core", soft=1, hard=1),),
    "oom_score_adj": 1,
    "pids_limit": 1,
    "hosts": ("1.1.1.1 a",),
    "nameservers": ("1.1.1.1",),
    "dns_search": ("a",),
    "dns_options": ("a",),
    "registry_auth": "x",
    "devices": ("/dev/null",),
}
REFUSED = {
    *("init", "tty", "open_stdin", "isolation", "hosts", "nameservers", "dns_search", "dns_options", "registry_auth"),
}


def config_of(container: ContainerSpec, ports: tuple[ChosenPort, ...] = ()) -> Any:
    fields = {name: getattr(container, name) for name in ContainerSpec.__struct_fields__}
    whole = ContainerSpec(**{**fields, "image": "/", "command": container.command or ("/bin/sh",)})
    spec = make_spec(task=TaskSpec(driver="oci", container=whole))
    bundle = make_bundle(make_task(), spec, NodeFacts(id=NODE, hostname="h", platform=Platform()))
    check(bundle)
    return make_config(
        bundle, ports, root=Path("/root"), cgroup="/g/t", volumes={}, files={}, started_fifo=Path("/fifo")
    )


def test_every_field_of_a_container_is_honoured_or_refused_by_name() -> None:
    plain = config_of(ContainerSpec())
    for info in msgspec.structs.fields(ContainerSpec):
        if info.name in SILENT and info.name not in REFUSED:
            continue
        container = msgspec.structs.replace(ContainerSpec(), **{info.name: SAMPLES[info.name]})
        if info.name in REFUSED:
            with pytest.raises(Unsupported) as refused:
                config_of(container)
            assert refused.value.fields == (f"container.{info.name}",)
        else:
            assert config_of(container) != plain, f"{info.name} is dropped in silence"


def test_a_check_is_left_to_the_agent() -> None:
    assert config_of(ContainerSpec(health_check=HealthCheck(test=("CMD", "true")))) == config_of(ContainerSpec())


def test_rights_are_added_and_taken_away() -> None:
    def held(container: ContainerSpec) -> set[str]:
        return set(config_of(container)["process"]["capabilities"]["effective"])

    usual = held(ContainerSpec())
    assert "CAP_CHOWN" in usual
    assert "CAP_SYS_ADMIN" not in usual
    assert held(ContainerSpec(capability_drop=("cap_chown",))) == usual - {"CAP_CHOWN"}
    assert held(ContainerSpec(capability_drop=("ALL",), capability_add=("NET_ADMIN",))) == {"CAP_NET_ADMIN"}
    with pytest.raises(Rejected):
        held(ContainerSpec(capability_add=("ALL",)))


def test_only_the_usual_devices_may_be_used() -> None:
    rules = config_of(ContainerSpec(devices=("/dev/null:/dev/x:r",)))["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert rules[-1] == {"allow": True, "access": "r", "type": "c", "major": 1, "minor": 3}
