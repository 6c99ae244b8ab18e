"""What the Docker engine is told of a task, and what is refused by name; reading its answers and its log frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.agent.core.bundle import NodeFacts, TaskBundle, make_bundle
from services.agent.drivers.api import Exit, Rejected, Unsupported
from services.agent.drivers.docker_devices import security_options
from services.agent.drivers.docker_logs import LogReader
from services.agent.drivers.docker_pull import PullProgress
from services.agent.drivers.docker_spec import check, container_config
from services.agent.drivers.docker_state import Inspected, exit_of, port_statuses, timestamp
from services.kit.model.objects import PortStatus
from services.kit.model.specs import (
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    GenericResource,
    HealthCheck,
    Mount,
    Platform,
    PortConfig,
    Privileges,
    ResourceRequirements,
    Resources,
    TaskSpec,
    Ulimit,
)
from services.kit.model.states import LogStream, MountType, Protocol, PublishMode
from tests.support.agents import NODE, make_spec, make_task, task_id

OLD, NEW = (1, 41), (1, 46)
PORTS = EndpointSpec(
    ports=(
        PortConfig(name="web", target_port=80, published_port=8080),
        PortConfig(
            name="dns", target_port=53, protocol=Protocol.UDP, published_port=5353, publish_mode=PublishMode.HOST
        ),
    )
)


def bundle_of(
    container: ContainerSpec, task: TaskSpec | None = None, endpoint: EndpointSpec = EndpointSpec()
) -> TaskBundle:
    container = msgspec.structs.replace(container, image=container.image or "app:1")
    spec = make_spec(
        endpoint=endpoint, task=msgspec.structs.replace(task or TaskSpec(driver="docker"), container=container)
    )
    return make_bundle(make_task(), spec, NodeFacts(id=NODE, hostname="h", platform=Platform()))


def config_of(bundle: TaskBundle, **files: Path) -> Any:
    check(bundle, NEW)
    return container_config(bundle, addr="10.0.0.1", files=files)


def test_every_field_that_is_honoured_reaches_the_engine() -> None:
    container = ContainerSpec(
        image="app:2",
        command=("/app",),
        args=("--port", "{{.Task.Port}}"),
        env=("A=b",),
        labels={"own": "label"},
        hostname="host",
        dir="/work",
        user="1000:1000",
        groups=("video",),
        init=True,
        tty=True,
        open_stdin=True,
        read_only=True,
        stop_signal="SIGINT",
        capability_add=("NET_ADMIN",),
        capability_drop=("ALL",),
        sysctls={"net.core.somaxconn": "1024"},
        ulimits=(Ulimit(name="nofile", soft=1, hard=2),),
        oom_score_adj=5,
        pids_limit=64,
        hosts=("10.1.1.1 db", "x:10.1.1.2"),
        nameservers=("1.1.1.1",),
        dns_search=("lan",),
        dns_options=("ndots:1",),
        privileges=Privileges(no_new_privileges=True),
        health_check=HealthCheck(test=("CMD", "true"), interval_s=1.5, timeout_s=2, retries=4, start_period_s=3),
    )
    task = TaskSpec(
        driver="docker",
        resources=ResourceRequirements(
            limits=Resources(nano_cpus=500_000_000, memory_bytes=1 << 20),
            reservations=Resources(memory_bytes=1 << 19),
            swap_bytes=1 << 18,
            memory_swappiness=10,
        ),
        log_driver=DriverConfig(name="json-file", options={"max-size": "1m"}),
        driver_options={"network": "backend"},
    )
    config = config_of(bundle_of(container, task, PORTS))
    host = config["HostConfig"]
    assert config["Image"] == "app:2"
    assert (config["Entrypoint"], config["Cmd"], config["Env"]) == (["/app"], ["--port", "80"], ["A=b"])
    assert (config["Hostname"], config["WorkingDir"], config["User"]) == ("host", "/work", "1000:1000")
    assert (config["Tty"], config["OpenStdin"], config["StopSignal"]) == (True, True, "SIGINT")
    assert config["Labels"]["own"] == "label"
    assert config["Labels"]["swarmbus.task.id"] == config["Labels"]["com.docker.swarm.task.id"] == task_id(1)
    assert config["Healthcheck"] == {"Test": ["NONE"]}, "the agent asks"
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "10.0.0.1", "HostPort": ""}],
        "53/udp": [{"HostIp": "10.0.0.1", "HostPort": "5353"}],
    }
    assert (host["NanoCpus"], host["Memory"], host["MemoryReservation"]) == (500_000_000, 1 << 20, 1 << 19)
    assert (host["MemorySwap"], host["MemorySwappiness"]) == ((1 << 20) + (1 << 18), 10)
    assert (host["CapAdd"], host["CapDrop"], host["GroupAdd"]) == (["NET_ADMIN"], ["ALL"], ["video"])
    assert host["ExtraHosts"] == ["db:10.1.1.1", "x:10.1.1.2"]
    assert (host["Dns"], host["DnsSearch"], host["DnsOptions"]) == (["1.1.1.1"], ["lan"], ["ndots:1"])
    assert (host["NetworkMode"], host["Init"], host["PidsLimit"], host["ReadonlyRootfs"]) == ("backend", True, 64, True)
    assert host["Sysctls"] == {"net.core.somaxconn": "1024"}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert (host["OomScoreAdj"], host["SecurityOpt"]) == (5, ["no-new-privileges"])
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m"}}
    assert host["RestartPolicy"] == {"Name": "no"}


def test_mounts_of_each_type() -> None:
    mounts = (
        Mount(type=MountType.BIND, source="/src", target="/a", read_only=True, propagation="rslave"),
        Mount(type=MountType.VOLUME, source="vol", target="/b", labels={"l": "1"}, volume_driver="local", no_copy=True),
        Mount(type=MountType.TMPFS, target="/c", tmpfs_size_bytes=4096, tmpfs_mode=0o700),
    )
    config = config_of(bundle_of(ContainerSpec(mounts=mounts)), **{"/run/secrets/key": Path("/dev/shm/x")})
    bind, volume, tmpfs, secret = config["HostConfig"]["Mounts"]
    assert (bind["Type"], bind["Source"], bind["Target"], bind["ReadOnly"]) == ("bind", "/src", "/a", True)
    assert bind["BindOptions"]["Propagation"] == "rslave"
    assert volume["VolumeOptions"] == {
        "NoCopy": True,
        "Labels": {"l": "1"},
        "DriverConfig": {"Name": "local", "Options": {}},
    }
    assert tmpfs["TmpfsOptions"] == {"SizeBytes": 4096, "Mode": 0o700}
    assert secret == {"Type": "bind", "Source": "/dev/shm/x", "Target": "/run/secrets/key", "ReadOnly": True}


@pytest.mark.parametrize(
    ("container", "task", "fields"),
    [
        (ContainerSpec(isolation="hyperv"), None, ("container.isolation",)),
        (ContainerSpec(devices=("acme.com/gpu=0",)), None, ("container.devices",)),
        (
            ContainerSpec(privileges=Privileges(credential_spec_config="c")),
            None,
            ("container.privileges.credential_spec_config",),
        ),
        (
            ContainerSpec(
                mounts=(
                    Mount(type=MountType.VOLUME, target="/v", subpath="s"),
                    Mount(type=MountType.TMPFS, target="/t", tmpfs_options="noexec"),
                )
            ),
            None,
            ("container.mounts.0.subpath", "container.mounts.1.tmpfs_options"),
        ),
        (
            ContainerSpec(mounts=(Mount(type=MountType.NPIPE, target="x"), Mount(target="/y", subpath="z"))),
            None,
            ("container.mounts.0.type", "container.mounts.1.subpath"),
        ),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_its_name(
    container: ContainerSpec, task: TaskSpec | None, fields: tuple[str, ...]
) -> None:
    with pytest.raises(Unsupported) as refused:
        check(bundle_of(container, task), OLD)
    assert refused.value.fields == fields


def test_devices_and_gpus_are_asked_for() -> None:
    devices = (
        "/dev/fuse",
        "/dev/sda:/dev/xvda:r",
        "/dev/null:rw",
        "acme.com/gpu=0",
        "gpus=all",
        "gpus=2",
        "gpus=device:0,3",
    )
    host = config_of(bundle_of(ContainerSpec(devices=devices)))["HostConfig"]
    assert [tuple(device.values()) for device in host["Devices"]] == [
        ("/dev/fuse", "/dev/fuse", "rwm"),
        ("/dev/sda", "/dev/xvda", "r"),
        ("/dev/null", "/dev/null", "rw"),
    ]
    nvidia = {"Driver": "nvidia", "Capabilities": [["gpu"]]}
    assert host["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": ["acme.com/gpu=0"]},
        {**nvidia, "Count": -1},
        {**nvidia, "Count": 2},
        {**nvidia, "DeviceIDs": ["0", "3"]},
    ]


@pytest.mark.parametrize(
    "device", ["fuse", "/dev/x:/dev/y:q", "/a:/b:r:w", "gpus=", "gpus=none", "gpus=0", "gpus=device:"]
)
def test_a_device_that_means_nothing_is_rejected(device: str) -> None:
    with pytest.raises(Rejected, match=r"container\.devices"):
        check(bundle_of(ContainerSpec(devices=(device,))), NEW)


@pytest.mark.parametrize(
    ("privileges", "options"),
    [
        (Privileges(), []),
        (Privileges(no_new_privileges=True, selinux_disable=True), ["no-new-privileges", "label=disable"]),
        (Privileges(selinux_user="u", selinux_level="s0:c1"), ["label=user:u", "label=level:s0:c1"]),
        (
            Privileges(seccomp_mode="unconfined", apparmor_mode="disabled"),
            ["seccomp=unconfined", "apparmor=unconfined"],
        ),
        (Privileges(seccomp_mode="custom", seccomp_profile='{ "a": 1 }'), ['seccomp={"a": 1}']),
        (Privileges(apparmor_mode="own-profile"), ["apparmor=own-profile"]),
    ],
)
def test_privileges_become_security_options(privileges: Privileges, options: list[str]) -> None:
    assert security_options(privileges) == options


@pytest.mark.parametrize(
    "privileges",
    [
        Privileges(selinux_disable=True, selinux_role="r"),
        Privileges(seccomp_mode="custom"),
        Privileges(seccomp_mode="default", seccomp_profile="{}"),
        Privileges(seccomp_mode="strict"),
    ],
)
def test_privileges_that_contradict_themselves_are_rejected(privileges: Privileges) -> None:
    with pytest.raises(Rejected, match=r"container\.privileges"):
        check(bundle_of(ContainerSpec(privileges=privileges)), NEW)


def test_every_field_of_a_container_is_honoured_or_refused_by_name() -> None:
    """A field that is added to the spec must be decided on: what is set and not refused has to change what the engine is told."""
    plain = bundle_of(ContainerSpec())
    silent = {
        "registry_auth": "it goes with the pull",
        "stop_grace_period_s": "it goes with the stop",
        "configs": "",
        "secrets": "",
    }
    for info in msgspec.structs.fields(ContainerSpec):
        if info.name in silent:
            continue
        changed = bundle_of(msgspec.structs.replace(ContainerSpec(), **{info.name: SAMPLES[info.name]}))
        if info.name == "isolation":
            with pytest.raises(Unsupported):
                config_of(changed)
        else:
            assert config_of(changed) != config_of(plain), f"{info.name} is dropped in silence"


SAMPLES: dict[str, object] = {
    "image": "other:1",
    "command": ("/x",),
    "args": ("x",),
    "env": ("A=b",),
    "labels": {"a": "b"},
    "hostname": "h",
    "dir": "/d",
    "user": "u",
    "groups": ("g",),
    "init": True,
    "tty": True,
    "open_stdin": True,
    "read_only": True,
    "stop_signal": "INT",
    "mounts": (Mount(type=MountType.TMPFS, target="/t"),),
    "health_check": HealthCheck(test=("CMD", "x")),
    "privileges": Privileges(no_new_privileges=True),
    "capability_add": ("X",),
    "capability_drop": ("X",),
    "isolation": "hyperv",
    "sysctls": {"a": "b"},
    "ulimits": (Ulimit(name="core", soft=1, hard=1),),
    "oom_score_adj": 1,
    "pids_limit": 1,
    "hosts": ("1.1.1.1 a",),
    "nameservers": ("1.1.1.1",),
    "dns_search": ("a",),
    "dns_options": ("a",),
    "devices": ("/dev/null",),
}


def test_progress_of_a_download_is_told_once_in_a_second() -> None:
    progress = PullProgress("app:1")
    assert progress.take({"status": "Pulling from library/app", "id": "1"}, 0.0) == ""
    assert progress.take({"status": "Pulling fs layer", "id": "a"}, 0.0) == "pulling app:1: 0 of 1 layers"
    downloading = {"status": "Downloading", "id": "a", "progressDetail": {"current": 1_500_000, "total": 3_000_000}}
    assert progress.take(downloading, 0.5) == ""
    assert progress.take({"status": "Already exists", "id": "b"}, 1.0) == "pulling app:1: 1 of 2 layers, 1.5 of 3.0 MB"
    assert progress.take({"status": "Download complete", "id": "a"}, 1.5) == ""
    assert progress.take({"status": "Pull complete", "id": "a"}, 2.0) == "pulling app:1: 2 of 2 layers, 3.0 of 3.0 MB"
    assert progress.take({"status": "Digest: sha256:0"}, 9.0) == ""


def test_a_task_without_image_or_with_ports_but_no_network_is_rejected() -> None:
    spec = make_spec(task=TaskSpec(driver="docker"))
    with pytest.raises(Rejected, match="needs an image"):
        check(make_bundle(make_task(), spec, NodeFacts(id=NODE, hostname="h", platform=Platform())), NEW)
    task = TaskSpec(driver="docker", driver_options={"network": "none"})
    with pytest.raises(Rejected, match="without network"):
        check(bundle_of(ContainerSpec(), task, PORTS), NEW)


def test_generic_resources_are_told_by_environment() -> None:
    bundle = bundle_of(ContainerSpec(env=("A=1",)))
    generic = (GenericResource(kind="gpu", names=("a", "b")), GenericResource(kind="SSD", count=2))
    object.__setattr__(bundle, "task", msgspec.structs.replace(bundle.task, generic=generic))
    assert config_of(bundle)["Env"] == [
        "SWARMBUS_RESOURCE_GPU=a,b",
        "DOCKER_RESOURCE_GPU=a,b",
        "SWARMBUS_RESOURCE_SSD=2",
        "DOCKER_RESOURCE_SSD=2",
        "A=1",
    ], "what the user says comes last and wins"


def inspected(**state: object) -> Inspected:
    return msgspec.convert({"Id": "i", "State": state, "Config": {}, "NetworkSettings": {}}, Inspected)


def test_the_end_of_a_container_is_read() -> None:
    finished = "2026-01-02T03:04:05.123456789Z"
    seen = inspected(Status="exited", ExitCode=3, FinishedAt=finished, StartedAt=finished)
    assert seen.started
    assert seen.ended
    assert exit_of(seen) == Exit(code=3, finished_at=timestamp(finished))
    oom = inspected(Status="exited", ExitCode=137, OOMKilled=True)
    assert (exit_of(oom).status, exit_of(oom).oom) == (137, True)
    assert not inspected(Status="created", StartedAt="0001-01-01T00:00:00Z").started


def test_times_of_the_engine_are_read_and_nonsense_is_zero() -> None:
    assert timestamp("1970-01-01T00:01:00.5Z") == 60.5
    assert timestamp("0001-01-01T00:00:00Z") == 0.0
    assert timestamp("yesterday") == 0.0


def test_ports_are_reported_where_they_were_bound() -> None:
    bound = {"80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "32768"}], "53/udp": [{"HostIp": "", "HostPort": "5353"}]}
    seen = msgspec.structs.replace(
        inspected(Status="running"), network=msgspec.convert({"Ports": bound}, type(inspected().network))
    )
    assert port_statuses(bundle_of(ContainerSpec(), None, PORTS).ports, seen, host_network=False) == (
        PortStatus(name="web", target_port=80, port=32768),
        PortStatus(name="dns", target_port=53, port=5353, protocol="udp"),
    )
    assert [
        p.port for p in port_statuses(bundle_of(ContainerSpec(), None, PORTS).ports, inspected(), host_network=True)
    ] == [80, 53]


def frame(stream: int, text: bytes, second: int = 1) -> bytes:
    message = f"1970-01-01T00:00:{second:02}.000000000Z ".encode() + text
    return bytes((stream, 0, 0, 0)) + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_log_frames_in_any_pieces_become_lines(size: int) -> None:
    data = (
        frame(1, b"one\n") + frame(2, b"long ", 2) + frame(1, b"\n", 3) + frame(2, b"line\n", 4) + frame(1, b"end", 5)
    )
    reader = LogReader()
    lines = [line for at in range(0, len(data), size) for line in reader.feed(data[at : at + size])] + list(
        reader.end()
    )
    assert [(line.stream, line.data, line.timestamp) for line in lines] == [
        (LogStream.STDOUT, b"one", 1.0),
        (LogStream.STDOUT, b"", 3.0),
        (LogStream.STDERR, b"long line", 2.0),
        (LogStream.STDOUT, b"end", 5.0),
    ]


def test_the_log_of_a_terminal_has_no_frames() -> None:
    lines = LogReader(tty=True).feed(b"1970-01-01T00:00:01Z hello\r\n1970-01-01T00:00:02Z you\r\n1970")
    assert [(line.timestamp, line.data) for line in lines] == [(1.0, b"hello"), (2.0, b"you")]
