"""swarmctl itself, against a control server on a real Unix socket: what it prints, where, and how it ends."""

from __future__ import annotations

import base64
import json
import socket
import tarfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.cli.outcomes import Outcome
from services.cli.plain import plain
from services.cli.swarmctl import main
from services.kit.errors import PermissionDenied
from services.kit.messages.logs import LogBatch, LogLine
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Service
from services.kit.model.specs import (
    Annotations,
    ConfigSpec,
    GenericResource,
    Replicated,
    ReplicatedJob,
    SecretSpec,
    Ulimit,
)
from services.kit.model.states import Availability, LogStream, Role, TaskState
from services.kit.state.transaction import update
from swarmbus import BlockingClient, service_spec
from tests.support.control_server import ControlServer, ServedSocket

ROOT = Path(__file__).parents[2]
Text = pytest.CaptureFixture[str]
RUN = ["--driver", "process", "--", "python3", "-m", "http.server", "{{.Task.Port}}"]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlServer]:
    here = ServedSocket(tmp_path / "control.sock")
    monkeypatch.setenv("SWARM_SOCKET", here.path)
    yield here.server
    here.close()


def create(name: str = "web", *flags: str) -> int:
    return main(["service", "create", "--name", name, "--stable", "0", *flags, *RUN])


def only(server: ControlServer) -> Service:
    (service,) = server.state.services.values()
    return service


def test_create_waits_and_prints_the_id(served: ControlServer, capsys: Text) -> None:
    assert create("web", "--replicas", "3", "--publish", "8080:80") == Outcome.OK
    said = capsys.readouterr()
    assert said.out == only(served).id + "\n"
    assert "web: overall progress: 3 out of 3 tasks, converged" in said.err
    assert only(served).spec == service_spec(
        "web", command=("python3", "-m", "http.server", "{{.Task.Port}}"), replicas=3, ports=["8080:80"]
    )


def test_create_quietly_shows_no_progress(served: ControlServer, capsys: Text) -> None:
    assert create("web", "-q") == Outcome.OK
    assert capsys.readouterr().err == ""


def test_create_detached_does_not_wait(served: ControlServer, capsys: Text) -> None:
    served.runs_tasks = False
    assert create("web", "-d") == Outcome.OK
    assert served.calls["control.watch"] == 0


def test_an_image_takes_the_words_behind_it_as_its_command(served: ControlServer) -> None:
    assert main(["service", "create", "--name", "db", "-d", "-e", "A=1", "redis:7", "redis-server", "-p", "7"]) == 0
    container = only(served).spec.task.container
    assert (container.image, container.args, container.env) == ("redis:7", ("redis-server", "-p", "7"), ("A=1",))


def test_ls_ps_and_inspect_show_the_service(served: ControlServer, capsys: Text) -> None:
    create("web", "-q", "--replicas", "2", "--publish", "8080:80")
    capsys.readouterr()
    assert main(["service", "ls"]) == 0
    assert "2/2" in capsys.readouterr().out
    assert main(["service", "ps", "web"]) == 0
    out = capsys.readouterr().out
    assert "web.1" in out
    assert "beta" in out
    assert main(["service", "ps", "-n", "web"]) == 0
    assert "beta" not in capsys.readouterr().out
    assert main(["service", "inspect", only(served).id[:6]]) == 0
    assert "*:8080->80/tcp" in capsys.readouterr().out
    assert main(["service", "ls", "-q"]) == 0
    assert capsys.readouterr().out == only(served).id + "\n"


def test_json_is_one_document_with_every_field(served: ControlServer, capsys: Text) -> None:
    create("web", "-q")
    capsys.readouterr()
    for words in (["service", "ls"], ["service", "ps", "web"], ["node", "ls"], ["task", "ls"], ["cluster", "ls"]):
        assert main([*words, "--json"]) == 0
        assert isinstance(json.loads(capsys.readouterr().out), list)
    assert main(["service", "inspect", "web", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["spec"]["mode"] == {"type": "replicated", "replicas": 1}
    assert shown["spec"]["task"]["restart"]["condition"] == "any"
    assert main(["cluster", "inspect", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["root_ca"]["join_tokens"]["manager"] == "SWMTKN-1-m"


def test_scale_sets_the_number_and_waits(served: ControlServer, capsys: Text) -> None:
    create("web", "-q")
    assert main(["service", "scale", "--stable", "0", "web=6"]) == 0
    assert only(served).spec.mode == Replicated(replicas=6)
    assert "6 out of 6" in capsys.readouterr().err


def test_update_changes_only_what_was_named(served: ControlServer) -> None:
    create("web", "-q", "--env", "A=1", "--label", "x=1", "--publish", "8080:80")
    before = only(served).spec
    words = ["--env-add", "B=2", "--label-rm", "x", "--publish-rm", "80", "--limit-memory", "64m", "--force"]
    assert main(["service", "update", "web", "-d", *words]) == 0
    spec = only(served).spec
    assert spec.task.container.env == ("A=1", "B=2")
    assert spec.annotations.labels == {}
    assert spec.endpoint.ports == ()
    assert spec.task.resources.limits.memory_bytes == 64 << 20
    assert spec.task.force_update == 1
    assert spec.task.container.command == before.task.container.command
    assert main(["service", "update", "-d", "web", "--", "sleep", "5"]) == 0
    assert only(served).spec.task.container.command == ("sleep", "5")


def test_rollback_goes_back_and_takes_no_other_change(served: ControlServer, capsys: Text) -> None:
    create("web", "-q")
    main(["service", "update", "-d", "--replicas", "4", "web"])
    assert main(["service", "update", "--rollback", "--replicas", "9", "web"]) == Outcome.USAGE
    assert main(["service", "update", "-d", "--rollback", "web"]) == 0
    assert only(served).spec.mode == Replicated(replicas=1)


def test_a_task_that_fails_for_good_ends_with_1_and_its_error(served: ControlServer, capsys: Text) -> None:
    served.runs_tasks = False
    assert create("once", "-d", "--restart-condition", "none") == 0
    served.add_task(only(served), 1, TaskState.FAILED, error="exit status 3")
    assert main(["service", "update", "--update-delay", "1s", "once"]) == Outcome.FAILED
    assert "exit status 3" in capsys.readouterr().err


def test_a_wait_that_lasts_too_long_ends_with_6_and_the_reason(served: ControlServer, capsys: Text) -> None:
    served.runs_tasks = False
    assert create("web", "--timeout", "50ms") == Outcome.TIMED_OUT
    assert "swarmctl service ps web" in capsys.readouterr().err


def test_rm_prints_ids_and_goes_on_after_a_failure(served: ControlServer, capsys: Text) -> None:
    create("web", "-q")
    created = capsys.readouterr().out
    assert main(["service", "rm", "wbe", "web"]) == Outcome.NOT_FOUND
    said = capsys.readouterr()
    assert said.out == created
    assert "no service 'wbe'" in said.err
    assert not served.state.services


def test_node_verbs(served: ControlServer, capsys: Text) -> None:
    assert main(["node", "ls"]) == 0
    out = capsys.readouterr().out
    assert "Leader" in out
    assert f"{served.node[:12]} *" in out
    for verb, wanted in (
        ("drain", Availability.DRAIN),
        ("pause", Availability.PAUSE),
        ("activate", Availability.ACTIVE),
    ):
        assert main(["node", verb, "alpha"]) == 0
        assert served.state.nodes[served.node].spec.availability is wanted
    assert main(["node", "update", "alpha", "--label-add", "zone=a"]) == 0
    assert served.state.nodes[served.node].spec.annotations.labels == {"zone": "a"}
    assert main(["node", "inspect", "alpha"]) == 0
    assert "zone=a" in capsys.readouterr().out
    assert main(["node", "rm", "beta"]) == Outcome.FAILED
    assert main(["node", "rm", "-f", "beta"]) == 0


def test_cluster_verbs(served: ControlServer, capsys: Text) -> None:
    assert main(["cluster", "inspect"]) == 0
    assert "SWMTKN-1-w" in capsys.readouterr().out
    assert main(["cluster", "update", "--task-history-limit", "2", "--dispatcher-heartbeat", "3s"]) == 0
    assert served.state.cluster is not None
    assert served.state.cluster.spec.orchestration.task_history_retention_limit == 2
    assert served.state.cluster.spec.dispatcher.heartbeat_period_s == 3
    capsys.readouterr()
    assert main(["cluster", "update", "--rotate-join-token", "worker"]) == 0
    assert capsys.readouterr().out == "SWMTKN-1-w-new\n"


def test_task_verbs(served: ControlServer, capsys: Text) -> None:
    create("web", "-q")
    capsys.readouterr()
    assert main(["task", "ls", "-q"]) == 0
    task_id = capsys.readouterr().out.strip()
    assert main(["task", "inspect", task_id[:8]]) == 0
    assert "web.1" in capsys.readouterr().out
    assert main(["task", "rm", task_id]) == 0
    assert not served.state.tasks


def test_logs_go_where_the_task_wrote_them(served: ControlServer, capsys: Text) -> None:
    create("web", "-q")
    capsys.readouterr()
    (task,) = served.state.tasks.values()
    assert task.node_id is not None
    lines = tuple(
        LogLine(
            task_id=task.id,
            node_id=task.node_id,
            service_id=ServiceId(task.service_id),
            slot=1,
            timestamp=1.0 + number,
            stream=stream,
            data=data,
        )
        for number, (stream, data) in enumerate(((LogStream.STDOUT, b"said"), (LogStream.STDERR, b"wailed \xff")))
    )
    served.log_batches = [LogBatch(lines=lines)]
    assert main(["service", "logs", "web"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith(" | said\n")
    assert said.out.startswith("web.1@")
    assert said.err.endswith(" | wailed \ufffd\n")
    served.log_batches = [LogBatch(missing=("beta",))]
    assert main(["service", "logs", "web"]) == Outcome.FAILED
    assert "no logs from beta" in capsys.readouterr().err


def test_the_example_stack_is_deployed_listed_left_alone_and_removed(served: ControlServer, capsys: Text) -> None:
    deploy = ["stack", "deploy", "--stable", "0", "-c", str(ROOT / "examples" / "web.yaml"), "web"]
    assert main(deploy) == 0
    said = capsys.readouterr()
    assert said.out == only(served).id + "\n"
    assert "3 out of 3" in said.err
    assert main(["stack", "services", "web"]) == 0
    assert "web_web" in capsys.readouterr().out
    assert main(deploy) == 0
    assert "leaving service web_web" in capsys.readouterr().err
    assert served.calls["control.update_service"] == 0
    assert main(["stack", "rm", "web"]) == 0
    assert not served.state.services
    assert main(["stack", "rm", "web"]) == Outcome.NOT_FOUND


def test_prune_removes_what_the_file_no_longer_has(served: ControlServer, tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text("services:\n  a: {x-driver: process, command: run}\n  b: {x-driver: process, command: run}\n")
    assert main(["stack", "deploy", "-d", "-c", str(file), "app"]) == 0
    file.write_text("services:\n  a: {x-driver: process, command: run --fast}\n")
    assert main(["stack", "deploy", "-d", "--prune", "-c", str(file), "app"]) == 0
    assert only(served).spec.task.container.command == ("run", "--fast")


STACK = """
services:
  a: {x-driver: process, command: run, deploy: {replicas: 2}}
  b: {x-driver: process, command: run, depends_on: [a]}
"""


def planned(capsys: Text, *words: str) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert main(["stack", "plan", "--json", *words]) == 0
    return {step["name"]: step for step in json.loads(capsys.readouterr().out)["steps"]}


def test_the_plan_is_what_deploy_then_does(served: ControlServer, tmp_path: Path, capsys: Text) -> None:
    file = tmp_path / "stack.yaml"
    words = ["--prune", "-c", str(file), "app"]
    deploy = ["stack", "deploy", "--stable", "0", *words]
    file.write_text(STACK)
    for change in (STACK, STACK.replace("replicas: 2", "replicas: 3"), STACK.replace("  b:", "  c:")):
        file.write_text(change)
        version = served.state.version
        plan = planned(capsys, *words)
        assert served.state.version == version
        before = {s.spec.annotations.name: s.meta.version for s in served.state.services.values()}
        assert main(deploy) == 0
        after = {s.spec.annotations.name: s for s in served.state.services.values()}
        for name, step in plan.items():
            if step["verb"] == "remove":
                assert name not in after
                continue
            assert plain(after[name].spec) == step["spec"]
            assert (before.get(name) == after[name].meta.version) is (step["verb"] == "leave")
        assert set(after) == {name for name, step in plan.items() if step["verb"] != "remove"}
        assert {step["verb"] for step in planned(capsys, *words).values()} == {"leave"}
    assert main(["stack", "plan", *words]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_deployment_does_not_overwrite_what_changed_since_its_plan(
    served: ControlServer, tmp_path: Path, capsys: Text
) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text(STACK)
    words = ["-d", "-c", str(file), "app"]
    assert main(["stack", "deploy", *words]) == 0
    file.write_text(STACK.replace("command: run, deploy", "command: other, deploy"))
    served.before["control.list_nodes"] = lambda: rescaled(served)
    assert main(["stack", "deploy", *words]) == Outcome.CONFLICT
    assert "deploy again" in capsys.readouterr().err
    assert main(["stack", "deploy", *words]) == 0


def rescaled(server: ControlServer) -> None:
    """Be somebody else who scales the stack's first service."""
    service = next(s for s in server.state.services.values() if s.spec.annotations.name == "app_a")
    server.commit(update(replace(service, spec=replace(service.spec, mode=Replicated(replicas=9)))))


def test_a_stack_keeps_its_secrets_and_configs(
    served: ControlServer, tmp_path: Path, capsys: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text(
        "services: {a: {image: x, secrets: [pw], configs: [site]}}\n"
        "secrets: {pw: {environment: PASSWORD}}\nconfigs: {site: {content: one}}\n"
    )
    monkeypatch.setenv("PASSWORD", "hush")
    served.runs_tasks = False
    words = ["-c", str(file), "app"]
    assert main(["stack", "plan", *words]) == 0
    assert "+ create secret app_pw" in capsys.readouterr().out
    assert main(["stack", "deploy", "-d", *words]) == 0
    (secret,) = served.state.secrets.values()
    assert secret.spec.data == b"hush"
    assert only(served).spec.task.container.secrets[0].secret_id == secret.id
    assert main(["stack", "plan", *words]) == 0
    out = capsys.readouterr().out
    assert "nothing to do" in out
    assert "hush" not in out
    monkeypatch.setenv("PASSWORD", "louder")
    assert main(["stack", "deploy", "-d", *words]) == 0
    assert "renewing secret app_pw" in capsys.readouterr().err
    assert sorted(each.spec.data for each in served.state.secrets.values()) == [b"hush", b"louder"]
    assert main(["stack", "plan", *words]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["stack", "rm", "app"]) == 0
    assert [each.superseded_by is not None for each in served.state.secrets.values()] == [True]
    assert not served.state.configs


def test_a_stack_keeps_its_networks(served: ControlServer, tmp_path: Path, capsys: Text) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text(
        "services:\n"
        "  a: {image: x, networks: {back: {aliases: [db]}}}\n"
        "  b: {image: x}\n"
        "  c: {image: x, networks: [plain]}\n"
        "networks:\n"
        "  back: {internal: true, ipam: {config: [{subnet: 10.5.0.0/24}]}}\n"
        "  default:\n"
        "  plain: {external: true, name: host}\n"
    )
    served.runs_tasks = False
    words = ["-c", str(file), "app"]
    assert main(["stack", "plan", *words]) == 0
    assert "+ create network app_back" in capsys.readouterr().out
    assert main(["stack", "deploy", "-d", *words]) == 0
    networks = {each.spec.annotations.name: each for each in served.state.networks.values()}
    assert [networks[name].ipam[0].subnet for name in ("app_back", "app_default")] == ["10.5.0.0/24", "10.0.0.0/24"]
    tasks = {each.spec.annotations.name: each.spec.task for each in served.state.services.values()}
    assert [each.target for each in tasks["app_a"].networks] == [networks["app_back"].id]
    assert tasks["app_a"].networks[0].aliases == ("db",)
    assert [each.target for each in tasks["app_b"].networks] == [networks["app_default"].id]
    assert (tasks["app_c"].networks, tasks["app_c"].driver_options) == ((), {"network": "host"})
    capsys.readouterr()
    assert main(["stack", "plan", *words]) == 0
    assert "nothing to do" in capsys.readouterr().out
    file.write_text(file.read_text().replace("10.5.0.0/24", "10.6.0.0/24"))
    assert main(["stack", "plan", *words]) != 0
    assert "there with other settings" in capsys.readouterr().err
    assert main(["stack", "rm", "app"]) == 0
    assert not served.state.networks


def test_a_stack_with_a_network_that_cannot_be_had_is_refused_with_its_line(
    served: ControlServer, tmp_path: Path, capsys: Text
) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text(
        "services:\n"
        "  a: {image: x, networks: {wide: {ipv4_address: 10.0.0.9}, gone: }}\n"
        "  b: {x-driver: process, command: run, networks: [back]}\n"
        "networks:\n"
        "  wide: {driver: overlay}\n"
        "  back: {ipam: {config: [{subnet: 10.0.0.1/24}]}}\n"
    )
    assert main(["stack", "deploy", "-d", "-c", str(file), "app"]) != 0
    told = capsys.readouterr().err
    for words in ("is not carried between nodes", "cannot be chosen", "does not have", "is not an address range"):
        assert words in told
    assert not served.state.services


def test_networks_are_created_listed_used_and_removed(served: ControlServer, capsys: Text) -> None:
    served.runs_tasks = False
    words = ["--subnet", "10.7.0.0/24", "--gateway", "10.7.0.9", "--ip-range", "10.7.0.128/25", "--label", "a=b"]
    assert main(["network", "create", *words, "back"]) == 0
    network_id = capsys.readouterr().out.strip()
    assert main(["network", "create", "-d", "overlay", "--name", "wide"]) == 0
    assert "no driver that comes with swarmbus carries overlay networks" in capsys.readouterr().err
    assert main(["network", "create", "--subnet", "10.7.0.0/16", "more"]) != 0
    assert "overlaps 10.7.0.0/24 of network 'back'" in capsys.readouterr().err
    assert main(["network", "create", "--gateway", "10.9.0.1", "--subnet", "10.8.0.0/24", "more"]) != 0
    assert "is in no subnet" in capsys.readouterr().err
    assert main(["network", "ls"]) == 0
    assert "10.7.0.0/24" in capsys.readouterr().out
    assert main(["network", "inspect", "back"]) == 0
    page = capsys.readouterr().out
    assert "10.7.0.9" in page
    assert "10.7.0.128/25" in page
    assert main(["service", "create", "-d", "--name", "web", "--network", "name=back,alias=db", "nginx"]) == 0
    assert main(["service", "create", "-d", "--name", "x", "--network", "none-such", "nginx"]) != 0
    assert "there is no network of this name" in capsys.readouterr().err
    assert main(["service", "create", "-d", "--name", "x", "--network", "host", "nginx"]) != 0
    assert "--driver-opt network=host" in capsys.readouterr().err
    assert (
        main(["service", "create", "-d", "--name", "x", "--driver", "process", "--network", "back", "--", "run"]) != 0
    )
    assert "the process driver attaches tasks to no network" in capsys.readouterr().err
    (service,) = served.state.services.values()
    assert [(each.target, each.aliases) for each in service.spec.task.networks] == [(network_id, ("db",))]
    assert main(["network", "rm", "back"]) != 0
    assert "is used by: web" in capsys.readouterr().err
    assert main(["service", "update", "-d", "--network-rm", "back", "web"]) == 0
    assert main(["network", "rm", "back", "wide"]) == 0
    assert not served.state.networks


def test_the_clusters_address_pools_are_a_setting(served: ControlServer, capsys: Text) -> None:
    words = ["--default-addr-pool", "10.20.0.0/16", "--default-addr-pool", "10.30.0.0/16"]
    assert main(["cluster", "update", *words, "--default-addr-pool-mask-length", "26"]) == 0
    assert main(["network", "create", "back"]) == 0
    (network,) = served.state.networks.values()
    assert network.ipam[0].subnet == "10.20.0.0/26"
    assert main(["cluster", "update", "--default-addr-pool", "10.20.0.0"]) != 0
    assert "is smaller than a subnet" in capsys.readouterr().err


def test_a_support_bundle_tells_much_and_no_secret(
    served: ControlServer, tmp_path: Path, capsys: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-e", "TOKEN=hush1", "--log-opt", "key=hush2", "--driver-opt", "network=bridge"]
    assert main(["service", "create", "-d", "--name", "web", *words, "nginx", "serve", "--password", "hush3"]) == 0
    with BlockingClient() as client:
        annotations = Annotations(name="s")
        client.secrets.create(SecretSpec(annotations=annotations, data=b"hush4"))
        client.configs.create(ConfigSpec(annotations=annotations, data=b"hush5"))
    file = tmp_path / "bundle.tar.gz"
    capsys.readouterr()
    assert main(["support-bundle", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    with tarfile.open(file) as tar:
        texts = {name: tar.extractfile(name).read().decode() for name in tar.getnames()}  # type: ignore[union-attr]
    assert {"nodes", "services", "tasks", "cluster"} <= {Path(name).stem for name in texts}
    everything = "".join(texts.values())
    assert "nginx" in everything
    assert "TOKEN=(redacted)" in everything
    for hidden in ("hush", "SWMTKN", base64.b64encode(b"hush4").decode(), base64.b64encode(b"hush5").decode()):
        assert hidden not in everything
    assert main(["support-bundle", str(tmp_path / "no" / "where.tar.gz")]) == Outcome.FAILED


def test_stacks_are_listed_with_their_tasks(served: ControlServer, tmp_path: Path, capsys: Text) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text("name: shop\n" + STACK)
    assert main(["stack", "deploy", "-q", "--stable", "0", "-c", str(file)]) == 0
    create("loose", "-q")
    capsys.readouterr()
    assert main(["stack", "ls"]) == 0
    assert capsys.readouterr().out.split() == ["NAME", "SERVICES", "shop", "2"]
    assert main(["stack", "ps", "shop", "--format", "{{.Name}}"]) == 0
    assert capsys.readouterr().out.split() == ["shop_a.1", "shop_a.2", "shop_b.1"]
    assert main(["stack", "ps", "none"]) == Outcome.NOT_FOUND


def test_variables_of_a_stack_come_from_its_file_and_the_shell(
    served: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, variables = tmp_path / "stack.yaml", tmp_path / "vars"
    file.write_text("services: {a: {x-driver: process, command: '$ONE $TWO'}}")
    variables.write_text("ONE=file\nTWO=file\n")
    monkeypatch.setenv("TWO", "shell")
    assert main(["stack", "deploy", "-d", "--env-file", str(variables), "-c", str(file), "app"]) == 0
    assert only(served).spec.task.container.command == ("file", "shell")


def test_version_shows_both_sides(served: ControlServer, capsys: Text) -> None:
    assert main(["version"]) == 0
    assert "9.9.9" in capsys.readouterr().out
    assert main(["--version"]) == 0


# -- bad input: one clear message, a non-zero exit code, and nothing changed

USAGE = [
    ([], "usage"),
    (["servce", "ls"], "did you mean service?"),
    (["service", "creat"], "did you mean create?"),
    (["service"], "verbs are"),
    (["service", "ls", "--quite"], "did you mean --quiet?"),
    (["service", "ls", "--zzzzzz"], "unknown flag --zzzzzz"),
    (["service", "create", "--replicaz", "3", "--name", "x", "img"], "did you mean --replicas?"),
    (["service", "ls", "extra"], "a word too many"),
    (["service", "rm"], "missing: SERVICE"),
    (["service", "scale", "web"], "not SERVICE=REPLICAS"),
    (["service", "scale", "web=many"], "not a whole number"),
    (["service", "create", "--name"], "--name"),
    (["service", "create", "--name", "x"], "image"),
    (["service", "create", "--name", "x", "--driver", "process", "nginx"], "runs no images"),
    (["service", "create", "--name", "x", "--timeout", "soon", "nginx"], "not a duration"),
    (["service", "create", "--name", "x", "--mode", "global", "--replicas", "2", "nginx"], "no number of replicas"),
    (["service", "create", "--name", "x", "--sekret", "s", "nginx"], "unknown flag --sekret"),
    (["service", "create", "--name", "x", "--env-file", "/nowhere/env", "nginx"], "cannot be read"),
    (["node", "update", "alpha"], "nothing to change"),
    (["node", "update", "alpha", "--availability", "asleep"], "active, pause, drain"),
    (["cluster", "update"], "nothing to change"),
    (["cluster", "update", "--rotate-join-token", "boss"], "worker or manager"),
    (["stack", "deploy", "x"], "missing: -c"),
    (["stack", "deploy", "-c", "/nowhere/stack.yaml", "x"], "cannot be read"),
]


@pytest.mark.parametrize(("words", "told"), USAGE, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_command_line_ends_with_2(served: ControlServer, capsys: Text, words: list[str], told: str) -> None:
    version = served.state.version
    assert main(words) == Outcome.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err
    assert "Traceback" not in said.err
    assert served.state.version == version


def test_five_mistakes_are_told_at_once(served: ControlServer, capsys: Text) -> None:
    words = ["--name", "-web-", "--limit-memory", "1k", "--publish", "99999:80", "--restart-condition", "maybe"]
    assert main(["service", "create", *words, "--constraint", "node.colour==red", "nginx"]) == Outcome.USAGE
    err = capsys.readouterr().err
    assert "there are 5 mistakes" in err
    for path in ("annotations.name", "limits.memory_bytes", "--publish", "--restart-condition", "constraints"):
        assert path in err
    assert err.count("hint:") >= 4
    assert not served.state.services


def test_the_servers_refusals_are_told_with_their_exit_codes(served: ControlServer, capsys: Text) -> None:
    create("web", "-q")
    assert create("web", "-q") == Outcome.CONFLICT
    assert "taken" in capsys.readouterr().err
    assert main(["service", "inspect", "wev"]) == Outcome.NOT_FOUND
    assert "did you mean web?" in capsys.readouterr().err
    assert main(["node", "inspect", "alhpa"]) == Outcome.NOT_FOUND
    assert "did you mean alpha?" in capsys.readouterr().err
    served.refuse_before["control.list_nodes"] = deque([PermissionDenied("managers only")])
    assert main(["node", "ls"]) == Outcome.DENIED


def test_a_socket_that_nobody_listens_on_says_what_to_start(tmp_path: Path, capsys: Text) -> None:
    assert main(["-s", str(tmp_path / "none.sock"), "node", "ls"]) == Outcome.UNAVAILABLE
    err = capsys.readouterr().err
    assert "nobody listens on the control socket" in err
    assert "supervisor up" in err


def test_a_dead_socket_file_is_nobody_too(tmp_path: Path, capsys: Text) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert main(["node", "ls", "--socket", str(path)]) == Outcome.UNAVAILABLE
    assert "nobody listens" in capsys.readouterr().err


def test_the_blocking_client_makes_the_same_calls(served: ControlServer) -> None:
    with BlockingClient() as swarm:
        created = swarm.services.create(service_spec("web", command=("run",), replicas=2))
        assert swarm.services.wait("web").done == 2
        assert [service.id for service in swarm.services.list()] == [created.id]
        assert [step.done for step in swarm.services.progress("web")] == [2]
        swarm.services.remove("web")
    swarm.close()
    assert not served.state.services


def test_format_prints_through_a_template(served: ControlServer, capsys: Text) -> None:
    create("web", "-q", "--replicas", "2")
    capsys.readouterr()
    assert main(["service", "ls", "--format", "{{.Name}} {{.Replicas}} {{.spec.task.driver}}"]) == 0
    assert capsys.readouterr().out == "web 2/2 process\n"
    assert main(["service", "ps", "web", "--format", r"table {{.Name}}\t{{.Node}}"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["NAME    NODE", "web.1   beta"]
    assert main(["service", "inspect", "web", "--format", "{{json .spec.mode}}"]) == 0
    assert json.loads(capsys.readouterr().out) == {"type": "replicated", "replicas": 2}
    assert main(["node", "ls", "--format", "{{.Hostnam}}"]) == Outcome.USAGE
    assert "did you mean Hostname?" in capsys.readouterr().err


def test_promote_and_demote_change_the_wanted_role(served: ControlServer) -> None:
    assert main(["node", "promote", "beta"]) == 0
    beta = next(node for node in served.state.nodes.values() if node.description.hostname == "beta")
    assert beta.spec.desired_role is Role.MANAGER
    assert main(["node", "demote", "beta"]) == 0
    assert served.state.nodes[beta.id].spec.desired_role is Role.WORKER


def test_events_tell_what_happened_behind_a_version(served: ControlServer, capsys: Text) -> None:
    version = served.state.version
    main(["node", "drain", "beta"])
    main(["node", "pause", "beta"])
    capsys.readouterr()
    assert main(["events", "--once", "--since", str(version), "--type", "node"]) == 0
    assert "node  update" in (line := capsys.readouterr().out)
    assert line.endswith("beta ready, drain\n")
    assert main(["events", "--once", "--since", str(version + 1), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["object"]["spec"]["availability"] == "pause"
    assert main(["events", "--type", "planet"]) == Outcome.USAGE
    assert "use cluster, node" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--cap-add", "net_admin", "--cap-drop", "CAP_CHOWN"], "capability_add", ("CAP_NET_ADMIN",)),
        (["--dns", "10.0.0.53", "--dns-search", "example.org"], "nameservers", ("10.0.0.53",)),
        (["--host", "db:10.0.0.5", "--host", "db:10.0.0.5"], "hosts", ("db:10.0.0.5",)),
        (["--sysctl", "net.core.somaxconn=99"], "sysctls", {"net.core.somaxconn": "99"}),
        (["--ulimit", "nofile=10:20"], "ulimits", (Ulimit(name="nofile", soft=10, hard=20),)),
        (["--group", "video"], "groups", ("video",)),
        (["--limit-pids", "12"], "pids_limit", 12),
        (["--oom-score-adj", "-5"], "oom_score_adj", -5),
        (["--entrypoint", "/bin/run 'two words'"], "command", ("/bin/run", "two words")),
    ],
)
def test_what_a_container_is_told(served: ControlServer, words: list[str], field: str, value: object) -> None:
    assert main(["service", "create", "--name", "x", "-d", *words, "redis:7"]) == 0
    assert getattr(only(served).spec.task.container, field) == value


def test_lists_are_changed_by_key(served: ControlServer) -> None:
    first = ["--generic-resource", "gpu=1", "--driver-opt", "a=1", "--log-driver", "syslog", "--log-opt", "tag=x"]
    assert main(["service", "create", "--name", "x", "-d", *first, "--cap-add", "kill", "redis:7"]) == 0
    change = ["--generic-resource-add", "gpu=2", "--driver-opt-rm", "a", "--log-opt", "tag=y", "--cap-drop", "kill"]
    assert main(["service", "update", "x", "-d", *change]) == 0
    task = only(served).spec.task
    assert task.resources.reservations.generic == (GenericResource(kind="gpu", count=2),)
    assert task.driver_options == {}
    assert (task.log_driver.name, task.log_driver.options) == ("syslog", {"tag": "y"})
    assert (task.container.capability_add, task.container.capability_drop) == ((), ("CAP_KILL",))


def test_a_job_has_completions_and_tasks_at_a_time(served: ControlServer) -> None:
    served.runs_tasks = False
    words = ["--mode", "replicated-job", "--replicas", "9", "--max-concurrent", "3"]
    assert main(["service", "create", "--name", "x", "-d", *words, "redis:7"]) == 0
    assert only(served).spec.mode == ReplicatedJob(max_concurrent=3, total_completions=9)
    assert main(["service", "create", "--name", "y", "-d", "--max-concurrent", "3", "redis:7"]) == Outcome.USAGE
