"""The web process's doors: the real docker command, the docker package and bare requests, against a scripted control server."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.types import EndpointSpec, ServiceMode

from services.kit.errors import InvalidArgument
from services.kit.messages.logs import LogBatch, LogLine
from services.kit.model.objects import Service
from services.kit.model.specs import Replicated
from services.kit.model.states import Availability, LogStream, Role
from tests.support.ports import free_remote_api
from tests.support.web_home import WebHome

needs_docker = pytest.mark.skipif(
    shutil.which("docker") is None, reason="the docker command is not installed (docker.io)"
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[WebHome]:
    made = WebHome(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(home: WebHome) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=f"unix://{home.docker_socket}", timeout=20)
    yield made
    made.close()


def said(home: WebHome, *words: str) -> str:
    done = home.docker(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(home: WebHome, *words: str) -> str:
    done = home.docker(*words)
    assert done.returncode != 0, done.stdout
    return done.stderr.strip()


def service(home: WebHome, name: str = "web") -> Service:
    found = home.server.state.service_named(name)
    assert found is not None
    return found


# -- the docker command


@needs_docker
def test_the_docker_command_rules_services(home: WebHome) -> None:
    flags = ["--replicas", "2", "-p", "8080:80", "--limit-memory", "64m", "--constraint", "node.role==worker"]
    made = said(home, "service", "create", "-d", "-q", "--name", "web", *flags, "-e", "A=1", "nginx:1", "serve", "-v")
    spec = service(home).spec
    assert service(home).id == made.splitlines()[0]
    assert (spec.task.driver, spec.task.container.image, spec.task.container.args) == (
        "docker",
        "nginx:1",
        ("serve", "-v"),
    )
    assert spec.task.resources.limits.memory_bytes == 64 << 20
    assert "2/2" in said(home, "service", "ls")
    assert "*:8080->80/tcp" in said(home, "service", "ls")
    assert "web.1" in said(home, "service", "ps", "web")
    said(home, "service", "scale", "-d", "web=5")
    assert service(home).spec.mode == Replicated(replicas=5)
    said(home, "service", "update", "-d", "-q", "--image", "nginx:2", "--env-add", "B=2", "web")
    assert sorted(service(home).spec.task.container.env) == ["A=1", "B=2"]
    said(home, "service", "rollback", "-d", "-q", "web")
    assert service(home).spec.task.container.image == "nginx:1"
    assert "64MiB" in said(home, "service", "inspect", "--pretty", "web")
    assert said(home, "service", "rm", "web") == "web"
    assert not home.server.state.services


@needs_docker
def test_the_docker_command_waits_for_convergence(home: WebHome) -> None:
    words = ["service", "create", "--name", "web", "--update-monitor", "1s", "--replicas", "2", "nginx"]
    assert "converged" in said(home, *words)


@needs_docker
def test_the_docker_command_rules_nodes_and_the_swarm(home: WebHome) -> None:
    listed = said(home, "node", "ls").splitlines()
    assert "Leader" in listed[1]
    assert " * " in listed[1]
    said(home, "node", "update", "--availability", "drain", "--label-add", "zone=a", "beta")
    beta = next(node for node in home.server.state.nodes.values() if node.description.hostname == "beta")
    assert (beta.spec.availability, beta.spec.annotations.labels) == (Availability.DRAIN, {"zone": "a"})
    said(home, "node", "promote", "beta")
    assert home.server.state.nodes[beta.id].spec.desired_role is Role.MANAGER
    assert "is not down and can't be removed" in refused(home, "node", "rm", "beta")
    said(home, "node", "rm", "--force", "beta")
    assert "SWMTKN-1-w" in said(home, "swarm", "join-token", "-q", "worker")
    assert "SWMTKN-1-m-new" in said(home, "swarm", "join-token", "-q", "--rotate", "manager")
    said(home, "swarm", "update", "--task-history-limit", "3")
    assert home.server.state.cluster is not None
    assert home.server.state.cluster.spec.orchestration.task_history_retention_limit == 3
    assert "already part of a swarm" in refused(home, "swarm", "init")


@needs_docker
def test_the_docker_command_deploys_a_stack(home: WebHome, tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text("services:\n  a: {image: nginx, deploy: {replicas: 2}}\n")
    told = refused(home, "stack", "deploy", "-d", "-c", str(file), "app")
    assert "there are no overlay networks" in told
    file.write_text(file.read_text() + "networks: {default: {external: true, name: bridge}}\n")
    said(home, "stack", "deploy", "-d", "-c", str(file), "app")
    assert service(home, "app_a").spec.task.driver_options == {"network": "bridge"}
    assert "2/2" in said(home, "stack", "services", "app")
    assert "app_a.1" in said(home, "stack", "ps", "app")
    assert "app" in said(home, "stack", "ls")


@needs_docker
def test_the_docker_command_rules_networks(home: WebHome) -> None:
    made = said(
        home, "network", "create", "-d", "bridge", "--scope", "swarm", "--subnet", "10.7.0.0/24", "back"
    ).strip()
    assert "back" in said(home, "network", "ls", "--filter", "scope=swarm")
    assert "10.7.0.0/24" in said(home, "network", "inspect", "back")
    assert "already exists" in refused(home, "network", "create", "-d", "bridge", "back")
    assert "there are no overlay networks" in refused(home, "network", "create", "-d", "overlay", "wide")
    assert "overlaps" in refused(home, "network", "create", "--subnet", "10.7.0.0/16", "more")
    said(home, "service", "create", "-d", "-q", "--name", "web", "--network", "back", "nginx")
    assert [each.target for each in service(home, "web").spec.task.networks] == [made]
    assert "is used by: web" in refused(home, "network", "rm", "back")
    said(home, "service", "rm", "web")
    said(home, "network", "rm", "back")
    assert "pre-defined" in refused(home, "network", "rm", "bridge")
    assert "not found" in refused(home, "network", "inspect", "back")


@needs_docker
def test_the_docker_command_is_told_what_is_wrong_in_dockers_words(home: WebHome) -> None:
    said(home, "service", "create", "-d", "-q", "--name", "web", "nginx")
    told = refused(home, "service", "create", "-d", "-q", "--name", "web", "nginx")
    assert told == (
        "Error response from daemon: rpc error: code = AlreadyExists desc ="
        " name conflicts with an existing object: service web already exists"
    )
    assert "no such service: nope" in refused(home, "service", "inspect", "nope")
    assert "service nope not found" in refused(home, "service", "scale", "-d", "nope=1")
    assert "container engine" in refused(home, "ps")


@needs_docker
def test_logs_come_with_their_tasks_names(home: WebHome) -> None:
    said(home, "service", "create", "-d", "-q", "--name", "web", "nginx")
    (task,) = home.server.state.tasks.values()
    assert task.node_id is not None
    lines = tuple(
        LogLine(
            task_id=task.id,
            node_id=task.node_id,
            service_id=task.service_id,
            slot=1,
            timestamp=1_700_000_000.0,
            stream=stream,
            data=text,
        )
        for stream, text in ((LogStream.STDOUT, b"hello"), (LogStream.STDERR, b"oh no"))
    )
    home.server.log_batches = [LogBatch(lines=lines)]
    done = home.docker("service", "logs", "web")
    assert done.returncode == 0
    assert done.stdout.split() == [f"web.1.{task.id[:12]}@beta", "|", "hello"] or "hello" in done.stdout
    assert "oh no" in done.stderr
    assert said(home, "service", "logs", "--raw", "web") == "hello"


@needs_docker
def test_the_docker_command_keeps_secrets_and_configs(home: WebHome, tmp_path: Path) -> None:
    made = home.docker("secret", "create", "-l", "a=b", "password", "-", text="hush").stdout.strip()
    (secret,) = home.server.state.secrets.values()
    assert (secret.id, secret.spec.data, secret.spec.annotations.labels) == (made, b"hush", {"a": "b"})
    assert "hush" not in said(home, "secret", "inspect", "password")
    (tmp_path / "site.conf").write_text("listen 80")
    said(home, "config", "create", "site", str(tmp_path / "site.conf"))
    assert "listen 80" in said(home, "config", "inspect", "--pretty", "site")
    words = ["--secret", "source=password,target=pw,mode=0400", "--config", "site", "nginx"]
    said(home, "service", "create", "-d", "-q", "--name", "web", *words)
    container = service(home).spec.task.container
    assert [(each.secret_id, each.target.name, each.target.mode) for each in container.secrets] == [(made, "pw", 0o400)]
    assert [each.config_name for each in container.configs] == ["site"]
    assert "is in use" in refused(home, "secret", "rm", "password")
    assert "password" in said(home, "secret", "ls")
    said(home, "service", "rm", "web")
    said(home, "secret", "rm", "password")
    said(home, "config", "rm", "site")
    assert not home.server.state.secrets


@needs_docker
def test_the_docker_command_removes_a_stack_with_its_configs(home: WebHome, tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("x")
    file = tmp_path / "stack.yaml"
    file.write_text(
        "services: {a: {image: nginx, configs: [c], secrets: [s]}}\n"
        "configs: {c: {file: a.conf}}\nsecrets: {s: {file: a.conf}}\n"
        "networks: {default: {external: true, name: host}}\n"
    )
    said(home, "stack", "deploy", "-d", "-c", str(file), "app")
    assert [each.config_name for each in service(home, "app_a").spec.task.container.configs] == ["app_c"]
    said(home, "stack", "rm", "app")
    state = home.server.state
    assert not [*state.services, *state.secrets, *state.configs]


# -- the docker package


def test_the_docker_package_keeps_secrets_and_configs(home: WebHome, client: docker.DockerClient) -> None:
    secret = client.secrets.create(name="s", data=b"hush", labels={"a": "b"})
    assert [each.id for each in client.secrets.list(filters={"name": "s"})] == [secret.id]
    with pytest.raises(APIError, match="secret s already exists"):
        client.secrets.create(name="s", data=b"x")
    config = client.configs.create(name="c", data=b"\x00\x01")
    assert client.configs.get(config.id).attrs["Spec"]["Data"] == "AAE="
    assert client.secrets.get(secret.id).remove()
    assert client.configs.get(config.id).remove()
    with pytest.raises(NotFound, match="not found"):
        client.secrets.get(secret.id)


def test_the_docker_package_works_unmodified(home: WebHome, client: docker.DockerClient) -> None:
    assert client.ping()
    assert client.version()["ApiVersion"] == "1.47"
    assert client.info()["Swarm"]["NodeID"] == home.server.node
    made = client.services.create(
        "nginx", name="web", mode=ServiceMode("replicated", 2), endpoint_spec=EndpointSpec(ports={9000: 90})
    )
    assert [task["Status"]["State"] for task in made.tasks()] == ["running", "running"]
    assert made.scale(4)
    made.reload()
    assert made.attrs["Spec"]["Mode"] == {"Replicated": {"Replicas": 4}}
    assert made.update(labels={"tier": "front"}) == {"Warnings": None}
    made.reload()
    assert made.force_update()
    assert service(home).spec.task.force_update == 1
    assert [each.name for each in client.services.list(filters={"label": "tier=front"})] == ["web"]
    assert client.services.list(filters={"name": "nope"}) == []
    with pytest.raises(APIError, match="update out of sequence"):
        made.client.api.update_service(made.id, version=1, name="web", task_template={"ContainerSpec": {"Image": "x"}})
    assert made.remove()
    with pytest.raises(NotFound, match="service web not found"):
        client.services.get("web")


def test_the_docker_package_rules_nodes_and_the_swarm(home: WebHome, client: docker.DockerClient) -> None:
    assert [node.attrs["Spec"]["Role"] for node in client.nodes.list(filters={"role": "manager"})]
    beta = client.nodes.list(filters={"name": "beta"})[0]
    assert beta.update({"Availability": "pause", "Role": "worker", "Labels": {}, "Name": "beta"})
    client.swarm.reload()
    assert client.swarm.attrs["JoinTokens"]["Worker"] == "SWMTKN-1-w"
    assert client.swarm.update(rotate_worker_token=True)
    assert client.swarm.get_unlock_key() == {"UnlockKey": ""}
    with pytest.raises(APIError, match="already part of a swarm"):
        client.swarm.init()


def test_events_tell_what_happens(home: WebHome, client: docker.DockerClient) -> None:
    events = client.events(decode=True, filters={"type": "service"})
    try:
        made = client.services.create("nginx", name="web")
        event = next(events)
    finally:
        events.close()
    assert (event["Type"], event["Action"], event["Actor"]["ID"]) == ("service", "create", made.id)


# -- bare requests: who may do what


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    answer = connection.getresponse()
    status, message = answer.status, answer.read().decode()
    connection.close()
    return status, message


@pytest.fixture
def tcp(tmp_path: Path) -> Iterator[int]:
    port = int(free_remote_api().rpartition(":")[2])
    (tmp_path / "token").write_text("open sesame\n")
    made = WebHome(tmp_path, f"127.0.0.1:{port}", http_token_file=str(tmp_path / "token"))
    yield port
    made.close()


def test_a_plain_address_reads_and_changes_with_its_token_only(tcp: int) -> None:
    assert ask(tcp, "GET", "/v1.44/nodes")[0] == 200
    status, text = ask(tcp, "POST", "/swarm/update?version=1")
    assert status == 403
    assert "this address only reads" in text
    assert ask(tcp, "DELETE", "/nodes/beta?force=1", Authorization="Bearer wrong")[0] == 403
    assert ask(tcp, "DELETE", "/nodes/beta?force=1", Authorization="Bearer open sesame")[0] == 200


def test_metrics_count_the_swarm_under_swarmkits_names(tcp: int) -> None:
    status, text = ask(tcp, "GET", "/metrics")
    assert status == 200
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['swarm_manager_nodes{state="ready"}'] == "2"
    assert samples["swarm_manager_leader"] == "1"
    assert samples["swarm_manager_services_total"] == "0"
    assert samples['swarm_manager_tasks_total{state="running"}'] == "0"
    assert samples["swarm_node_manager"] == "1"


def test_join_tokens_are_not_for_readers(tcp: int) -> None:
    assert "JoinTokens" not in json.loads(ask(tcp, "GET", "/swarm")[1])
    assert "JoinTokens" in json.loads(ask(tcp, "GET", "/swarm", Authorization="Bearer open sesame")[1])
    assert ask(tcp, "GET", "/swarm/unlockkey")[0] == 403


def test_a_browser_that_was_sent_here_by_somebody_else_gets_nothing(tcp: int) -> None:
    assert ask(tcp, "GET", "/nodes", Host="evil.example")[0] == 403
    assert ask(tcp, "GET", "/nodes", Origin="http://evil.example")[0] == 403
    assert ask(tcp, "GET", "/nodes", Origin=f"http://127.0.0.1:{tcp}")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nonsense", 404),
        ("GET", "/v1.44/containers/json", 501),
        ("GET", "/v1.99/nodes", 400),
        ("GET", "/v1.20/nodes", 400),
        ("GET", "/services?filters=%7B", 400),
        ("GET", "/services/nope", 404),
        ("GET", "/services/nope/logs?stdout=1", 404),
    ],
)
def test_errors_are_dockers_json(tcp: int, method: str, path: str, status: int) -> None:
    answered, text = ask(tcp, method, path)
    assert answered == status
    assert set(json.loads(text)) == {"message"}


def test_an_address_that_is_open_to_everybody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="open to everybody"):
        WebHome(tmp_path, "0.0.0.0:4999")


def test_a_client_certificate_opens_everything(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    _certificates(openssl, tmp_path)
    port = int(free_remote_api().rpartition(":")[2])
    home = WebHome(tmp_path, f"127.0.0.1:{port}", http_tls_dir=str(tmp_path))
    try:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.check_hostname = False
        assert _get(context, port) == ""
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        assert "JoinTokens" in _get(context, port)
    finally:
        home.close()


def _get(context: ssl.SSLContext, port: int) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        wrapped.sendall(b"GET /swarm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        try:
            return b"".join(iter(lambda: wrapped.recv(65536), b"")).decode()
        except (ssl.SSLError, ConnectionError):
            return ""


def _certificates(openssl: str, folder: Path) -> None:
    def run(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True, timeout=30)

    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "req.pem", "-subj", "/CN=localhost")
    run("x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "cert.pem")
