"""What the Docker engine is told of a task, and what is refused by name; reading its answers and its log frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.agent.core.bundle import NodeFacts, TaskBundle, make_bundle
from services.agent.drivers.api import Exit, Rejected, Unsupported
from services.agent.drivers.docker_logs import LogReader
from services.agent.drivers.docker_spec import Inspected, check, container_config, exit_of, port_statuses, timestamp
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
    check(bundle)
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
        (ContainerSpec(devices=("/dev/fuse",)), None, ("container.devices",)),
        (ContainerSpec(privileges=Privileges(selinux_user="u")), None, ("container.privileges.selinux_user",)),
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
        check(bundle_of(container, task))
    assert refused.value.fields == fields


def test_a_task_without_image_or_with_ports_but_no_network_is_rejected() -> None:
    spec = make_spec(task=TaskSpec(driver="docker"))
    with pytest.raises(Rejected, match="needs an image"):
        check(make_bundle(make_task(), spec, NodeFacts(id=NODE, hostname="h", platform=Platform())))
    task = TaskSpec(driver="docker", driver_options={"network": "none"})
    with pytest.raises(Rejected, match="without network"):
        check(bundle_of(ContainerSpec(), task, PORTS))


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
    assert port_statuses(bundle_of(ContainerSpec(), None, PORTS), seen) == (
        PortStatus(name="web", target_port=80, port=32768),
        PortStatus(name="dns", target_port=53, port=5353, protocol="udp"),
    )
    host = TaskSpec(driver="docker", driver_options={"network": "host"})
    assert [p.port for p in port_statuses(bundle_of(ContainerSpec(), host, PORTS), inspected())] == [80, 53]


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
