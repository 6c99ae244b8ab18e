"""What each group of keys of a stack file becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from services.cli.stack.file import read_stack
from services.cli.stack.payloads import StackPayload, fingerprint, holds, secret_spec, with_ids
from services.kit.errors import InvalidArgument
from services.kit.model.ids import SecretId
from services.kit.model.objects import Secret
from services.kit.model.specs import (
    ContainerSpec,
    Dependency,
    DriverConfig,
    GenericResource,
    HttpConfig,
    IngressConfig,
    Mount,
    Platform,
    PortConfig,
    Replicated,
    RestartPolicy,
    ServiceSpec,
    Ulimit,
)
from services.kit.model.states import DependencyCondition, MountType, Protocol, RestartCondition


def one(body: str, rest: str = "") -> ServiceSpec:
    """Return the service that these keys make, under an image."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (spec,) = read_stack([("stack.yaml", f"services:\n  web:\n    image: nginx\n{lines}{rest}")], "app", {}).services
    return spec


def container(body: str, rest: str = "") -> ContainerSpec:
    return one(body, rest).task.container


def mistakes(body: str, rest: str = "") -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        one(body, rest)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("written", "mount"),
    [
        ("[/data]", Mount(type=MountType.VOLUME, target="/data")),
        ("['data:/data:ro']", Mount(type=MountType.VOLUME, source="app_data", target="/data", read_only=True)),
        (
            "['/srv:/data']",
            Mount(type=MountType.BIND, source="/srv", target="/data", create_mountpoint=True),
        ),
        (
            "[{type: bind, source: /srv, target: /data, read_only: true, bind: {propagation: rslave}}]",
            Mount(type=MountType.BIND, source="/srv", target="/data", read_only=True, propagation="rslave"),
        ),
        (
            "[{type: tmpfs, target: /run, tmpfs: {size: 64m, mode: 0o1777}}]",
            Mount(type=MountType.TMPFS, target="/run", tmpfs_size_bytes=64 << 20, tmpfs_mode=0o1777),
        ),
        (
            "[{type: volume, source: shared, target: /data, volume: {nocopy: true}}]",
            Mount(type=MountType.VOLUME, source="outside", target="/data", no_copy=True),
        ),
        (
            "['nfs:/data']",
            Mount(
                type=MountType.VOLUME,
                source="app_nfs",
                target="/data",
                volume_driver="local",
                volume_driver_options={"type": "nfs"},
                labels={"a": "b"},
            ),
        ),
    ],
)
def test_a_mount_is_short_or_long(written: str, mount: Mount) -> None:
    rest = "volumes:\n  data:\n  shared: {external: true, name: outside}\n"
    rest += "  nfs: {driver: local, driver_opts: {type: nfs}, labels: [a=b]}\n"
    assert container(f"volumes: {written}", rest).mounts == (mount,)


def test_a_relative_bind_begins_at_the_files_folder() -> None:
    content = "services: {web: {image: nginx, volumes: ['./data:/data']}}"
    (spec,) = read_stack([("/srv/app/stack.yaml", content)], "app", {}).services
    assert spec.task.container.mounts[0].source == "/srv/app/data"


def test_tmpfs_is_a_mount() -> None:
    assert container("tmpfs: /run:size=1m,mode=755").mounts == (
        Mount(type=MountType.TMPFS, target="/run", tmpfs_size_bytes=1 << 20, tmpfs_mode=0o755),
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("volumes: ['data:/data']", "names a volume that the file does not have"),
        ("volumes: ['/a:/b:rw,z']", "has a mode that is not known: z"),
        ("volumes: [{type: npipe, target: /x}]", "is not supported"),
        ("volumes: [{type: bind, target: /x}]", "does not say what to mount"),
        ("volumes: [{type: tmpfs, target: /x, bind: {}}]", "does not go with a mount of type tmpfs"),
        ("ports: ['80-82:90-91']", "two ranges of different lengths"),
        ("ports: [{target: 80, host_ip: 127.0.0.1}]", "is not supported: a published port"),
        ("ports: ['127.0.0.1:80:80']", "names an address to listen on"),
        ("ports: [{target: 80, x-ingress: {hosts: a.example}}]", "is not known"),
        ("ports: [{target: 80, x-ingress: {drain: soon}}]", "is not a duration"),
        ("security_opt: ['seccomp:unconfined']", "is not supported"),
        ("ulimits: {nofile: {soft: 1}}", "needs soft and hard"),
        ("restart: sometimes", "is not known"),
        ("restart: always\ndeploy: {restart_policy: {condition: none}}", "contradicts deploy.restart_policy"),
        ("cpus: 1\ndeploy: {resources: {limits: {cpus: 2}}}", "contradicts deploy.resources"),
        ("scale: 2\ndeploy: {replicas: 3}", "contradicts the deploy section"),
        ("memswap_limit: 1g", "needs a memory limit"),
        ("network_mode: service:db", "is not supported"),
        ("platform: linux/arm/v7", "names a variant"),
        ("deploy: {resources: {reservations: {devices: []}}}", "is not supported: reserve countable things"),
        ("deploy: {resources: {limits: {generic_resources: []}}}", "is not known"),
        ("depends_on: [db]", "depends on 'db', which is not in the file"),
        ("depends_on: {web: {}}", "cannot wait for itself"),
        ("depends_on: {web: {required: false}}", "waits for every service"),
        ("env_file: nothing.env", "there is no such file"),
        ("extends: {service: nobody}", "there is no such service to extend"),
        ("extends: {service: web}", "goes round in a circle"),
    ],
)
def test_what_cannot_be_is_refused(body: str, reason: str) -> None:
    assert any(reason in line for line in mistakes(body)), mistakes(body)


def test_a_port_may_say_how_gateways_treat_it() -> None:
    (port,) = one(
        "ports: [{target: 80, app_protocol: http, x-ingress: {host: [a.example, b.example], path: /api, drain: 1m, local-first: true}}]"
    ).endpoint.ports
    http = HttpConfig(hosts=("a.example", "b.example"), paths=("/api",))
    assert port == PortConfig(target_port=80, ingress=IngressConfig(http=http, drain_s=60, local_first=True))


def test_ports_may_be_ranges() -> None:
    assert one("ports: ['8000-8001:80-81/udp', 9000-9001]").endpoint.ports == (
        PortConfig(target_port=80, published_port=8000, protocol=Protocol.UDP),
        PortConfig(target_port=81, published_port=8001, protocol=Protocol.UDP),
        PortConfig(target_port=9000),
        PortConfig(target_port=9001),
    )


def test_the_container_is_told_everything() -> None:
    made = container(
        "cap_add: [net_admin, CAP_KILL]\ncap_drop: [ALL]\ndns: 10.0.0.53\ndns_search: [a.org, b.org]\ndns_opt: [ndots:2]\n"
        "extra_hosts: ['db=10.0.0.5', 'v6:::1']\nsysctls: {net.core.somaxconn: 99}\nulimits: {nproc: 5, nofile: {soft: 1, hard: 2}}\n"
        "group_add: [video]\nsecurity_opt: [no-new-privileges]\noom_score_adj: -10\nstdin_open: yes\nisolation: process\n"
        "deploy: {resources: {limits: {pids: 12}}}"
    )
    assert made == ContainerSpec(
        image="nginx",
        capability_add=("CAP_NET_ADMIN", "CAP_KILL"),
        capability_drop=("ALL",),
        nameservers=("10.0.0.53",),
        dns_search=("a.org", "b.org"),
        dns_options=("ndots:2",),
        hosts=("db:10.0.0.5", "v6:::1"),
        sysctls={"net.core.somaxconn": "99"},
        ulimits=(Ulimit(name="nproc", soft=5, hard=5), Ulimit(name="nofile", soft=1, hard=2)),
        groups=("video",),
        privileges=made.privileges,
        oom_score_adj=-10,
        open_stdin=True,
        isolation="process",
        pids_limit=12,
    )
    assert made.privileges.no_new_privileges


def test_older_keys_mean_what_the_deploy_section_says() -> None:
    spec = one("scale: 4\nrestart: on-failure:3\ncpus: 0.5\nmem_limit: 64m\nmemswap_limit: 96m\nmem_reservation: 16m")
    assert spec.mode == Replicated(replicas=4)
    assert spec.task.restart == RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=3)
    resources = spec.task.resources
    assert (resources.limits.nano_cpus, resources.limits.memory_bytes) == (500_000_000, 64 << 20)
    assert (resources.swap_bytes, resources.reservations.memory_bytes) == (32 << 20, 16 << 20)


def test_placement_logging_and_generic_resources() -> None:
    spec = one(
        "platform: linux/arm64\nnetwork_mode: host\nlogging: {driver: syslog, options: {tag: x}}\n"
        "deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}}}"
    )
    assert spec.task.placement.platforms == (Platform(os="linux", architecture="arm64"),)
    assert spec.task.driver_options == {"network": "host"}
    assert spec.task.log_driver == DriverConfig(name="syslog", options={"tag": "x"})
    assert spec.task.resources.reservations.generic == (GenericResource(kind="gpu", count=2),)


def test_variables_come_from_files_and_are_overridden(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("# comment\nA=1\nexport B='two words'\nC=3 # trailing\nFROM_HERE\n\n")
    content = "services: {web: {image: x, env_file: [a.env, {path: none.env, required: false}], environment: {A: 2}}}"
    (spec,) = read_stack([(str(tmp_path / "stack.yaml"), content)], "app", {"FROM_HERE": "h"}).services
    assert spec.task.container.env == ("A=2", "B=two words", "C=3", "FROM_HERE=h")


def test_services_come_behind_those_they_depend_on() -> None:
    content = (
        "services:\n  web: {image: x, depends_on: {db: {condition: service_healthy}, init: {}}}\n"
        "  init: {image: x, depends_on: [db]}\n  db: {image: x}\n"
    )
    services = read_stack([("stack.yaml", content)], "app", {}).services
    assert [service.annotations.name for service in services] == ["app_db", "app_init", "app_web"]
    assert services[2].depends_on == (
        Dependency(service="app_db", condition=DependencyCondition.HEALTHY),
        Dependency(service="app_init"),
    )


PROFILES = (
    "services:\n  web: {image: x}\n  debug: {image: x, profiles: [dev]}\n  top: {image: x, profiles: [ops, dev]}\n"
)


@pytest.mark.parametrize(
    ("asked", "names"),
    [((), ["web"]), (("ops",), ["web", "top"]), (("dev",), ["web", "debug", "top"]), (("*",), ["web", "debug", "top"])],
)
def test_profiles_choose_services(asked: tuple[str, ...], names: list[str]) -> None:
    services = read_stack([("stack.yaml", PROFILES)], "s", {}, profiles=asked).services
    assert [service.annotations.name.removeprefix("s_") for service in services] == names


def test_a_service_of_a_profile_that_is_not_asked_for_cannot_be_depended_on() -> None:
    content = PROFILES.replace("web: {image: x}", "web: {image: x, depends_on: [debug]}")
    with pytest.raises(InvalidArgument, match="of a profile that is not asked for"):
        read_stack([("stack.yaml", content)], "s", {})


FILES = """
services:
  web: {image: x, secrets: [pw, {source: key, target: id, uid: "5", mode: 0400}], configs: [site]}
secrets:
  pw: {environment: PASSWORD}
  key: {external: true, name: shared_key}
configs:
  site: {content: "listen $PORT", labels: {a: b}}
"""


def test_secrets_and_configs_are_named_until_they_have_ids() -> None:
    file = read_stack([("stack.yaml", FILES)], "app", {"PASSWORD": "hush", "PORT": "80"})
    (spec,) = file.services
    secrets, configs = spec.task.container.secrets, spec.task.container.configs
    assert [(each.secret_id, each.target.name, each.target.mode) for each in secrets] == [
        ("app_pw", "pw", 0o444),
        ("shared_key", "id", 0o400),
    ]
    assert [(each.config_name, each.target.name) for each in configs if each.target] == [("app_site", "/site")]
    assert {(each.noun, each.name): each.data for each in file.payloads} == {
        ("secret", "app_pw"): b"hush",
        ("secret", "shared_key"): None,
        ("config", "app_site"): b"listen 80",
    }
    ids = {("secret", "app_pw"): "s1", ("config", "app_site"): "c1"}
    container = with_ids(spec, ids).task.container
    assert [each.secret_id for each in container.secrets] == ["s1", "shared_key"]
    assert [each.config_id for each in container.configs] == ["c1"]


def test_a_fingerprint_tells_a_change_and_not_the_data() -> None:
    payload = StackPayload(noun="secret", name="s", data=b"hush")
    spec = secret_spec(payload, b"0" * 16)
    known = Secret(id=SecretId("s"), spec=replace(spec, data=b""))
    assert holds(known, b"hush")
    assert not holds(known, b"other")
    assert fingerprint(b"hush", b"1" * 16) != fingerprint(b"hush", b"2" * 16)


@pytest.mark.parametrize(
    ("top", "reason"),
    [
        ("secrets: {s: {}}", "needs one of file, environment and content"),
        ("secrets: {s: {file: nowhere}}", "cannot be read"),
        ("secrets: {s: {environment: NOTHING}}", "the variable is not set"),
        ("secrets: {s: {external: true, content: x}}", "is external and says what it holds"),
        ("configs: {s: {content: x, colour: red}}", "is not known"),
    ],
)
def test_a_secret_that_holds_nothing_is_refused(top: str, reason: str) -> None:
    assert any(reason in line for line in mistakes("", f"{top}\n"))


def test_a_service_uses_only_what_the_file_has() -> None:
    assert any("is not in the file" in line for line in mistakes("secrets: [nothing]"))


BASE = """
services:
  web:
    image: nginx:1
    command: [serve, slowly]
    environment: [A=1, B=2]
    ports: ["8080:80"]
    volumes: ["/a:/data", "/b:/other"]
    deploy: {replicas: 2, labels: {x: "1"}}
"""
OVER = """
name: shop
services:
  web:
    image: nginx:2
    command: [serve]
    environment: {B: "3", C: "4"}
    ports: ["8080:80", "8443:443"]
    volumes: ["/c:/data"]
    deploy: {labels: [y=2], replicas: !reset null}
"""


def test_later_files_are_merged_over_earlier_ones() -> None:
    file = read_stack([("base.yaml", BASE), ("over.yaml", OVER)], "", {})
    (spec,) = file.services
    made = spec.task.container
    assert (file.name, spec.annotations.name) == ("shop", "shop_web")
    assert (made.image, made.args) == ("nginx:2", ("serve",))
    assert made.env == ("A=1", "B=3", "C=4")
    assert [port.published_port for port in spec.endpoint.ports] == [8080, 8443]
    assert [(mount.source, mount.target) for mount in made.mounts] == [("/c", "/data"), ("/b", "/other")]
    assert spec.mode == Replicated(replicas=1)
    assert {"x": "1", "y": "2"}.items() <= spec.annotations.labels.items()


def test_override_replaces_instead_of_merging() -> None:
    over = "services: {web: {ports: !override ['9090:90']}}"
    (spec,) = read_stack([("base.yaml", BASE), ("over.yaml", over)], "s", {}).services
    assert [port.published_port for port in spec.endpoint.ports] == [9090]


def test_a_mistake_names_the_file_it_is_in() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_stack([("base.yaml", BASE), ("over.yaml", "services:\n  web:\n    tty: maybe\n")], "s", {})
    assert [problem.path for problem in caught.value.problems] == ["over.yaml:3: services.web.tty"]


def test_a_service_extends_another_one_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        BASE.replace("web:", "base:\n    extends: root\n  root:", 1) + "  other: {image: x}\n"
    )
    content = "services: {api: {extends: {file: base.yaml, service: base}, image: nginx:9, environment: [A=9]}}"
    (spec,) = read_stack([(str(tmp_path / "stack.yaml"), content)], "s", {}).services
    assert spec.annotations.name == "s_api"
    assert spec.task.container.image == "nginx:9"
    assert spec.task.container.env == ("A=9", "B=2")
    assert spec.mode == Replicated(replicas=2)


def test_a_circle_between_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("services: {a: {extends: {file: b.yaml, service: b}, image: x}}")
    (tmp_path / "b.yaml").write_text("services: {b: {extends: {file: a.yaml, service: a}}}")
    path = tmp_path / "a.yaml"
    with pytest.raises(InvalidArgument, match="goes round in a circle"):
        read_stack([(str(path), path.read_text())], "s", {})
