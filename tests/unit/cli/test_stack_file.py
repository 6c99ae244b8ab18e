"""Stack files: what they make, and that each key works or is refused with file, line and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.reading import Reading
from services.cli.stack import refused as refused_keys
from services.cli.stack.file import TOP_KEYS, read_stack
from services.cli.stack.places import interpolate
from services.cli.stack.service import SERVICE_KEYS, STACK_LABEL
from services.client.text import whole
from services.kit.errors import InvalidArgument
from services.kit.model.specs import Global, PortConfig, Replicated, Resources, ServiceSpec
from services.kit.model.states import PublishMode, RestartCondition, UpdateOrder

ROOT = Path(__file__).parents[3]


def read(content: str, **environment: str) -> tuple[ServiceSpec, ...]:
    return read_stack([("stack.yaml", content)], "app", environment).services


def refused(content: str, **environment: str) -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        read(content, **environment)
    return [f"{problem.path}: {problem.reason}" for problem in caught.value.problems]


def test_the_example_is_three_web_servers_on_port_8080() -> None:
    (spec,) = read_stack([("web.yaml", (ROOT / "examples" / "web.yaml").read_text())], "web", {}).services
    assert spec.annotations.name == "web_web"
    assert spec.annotations.labels == {STACK_LABEL: "web"}
    assert spec.task.driver == "process"
    assert spec.task.container.command == ("python3", "-m", "http.server", "{{.Task.Port}}")
    assert spec.mode == Replicated(replicas=3)
    assert spec.endpoint.ports == (PortConfig(published_port=8080, target_port=80),)


FULL = """
version: "3.9"
x-shared: &shared
  image: registry.example/app:1
services:
  app:
    <<: *shared
    entrypoint: /bin/run
    command: serve --name "two words"
    environment: {A: "1", ON: yes, FROM_HERE: }
    ports:
      - 80
      - {target: 443, published: 8443, mode: host}
    hostname: app-{{.Task.Slot}}
    stop_grace_period: 1m
    healthcheck: {test: "true", interval: 3s}
    deploy:
      mode: global
      labels: [tier=front]
      resources: {limits: {cpus: "0.5", memory: 64M}, reservations: {memory: 16M}}
      placement: {constraints: [node.role == worker], preferences: [{spread: node.labels.zone}], max_replicas_per_node: 2}
      restart_policy: {condition: on-failure, delay: 1s, max_attempts: 3, window: 2m}
      update_config: {parallelism: 2, order: start-first}
      endpoint_mode: vip
"""


def test_a_full_service_is_taken_as_written() -> None:
    (spec,) = read(FULL, FROM_HERE="x")
    task, container = spec.task, spec.task.container
    assert (container.image, container.command) == ("registry.example/app:1", ("/bin/run",))
    assert container.args == ("serve", "--name", "two words")
    assert container.env == ("A=1", "ON=yes", "FROM_HERE=x")
    assert container.stop_grace_period_s == 60
    assert container.health_check is not None
    assert container.health_check.test == ("CMD-SHELL", "true")
    assert spec.endpoint.ports[0] == PortConfig(target_port=80)
    assert spec.endpoint.ports[1].publish_mode is PublishMode.HOST
    assert spec.mode == Global()
    assert spec.annotations.labels["tier"] == "front"
    assert task.resources.limits == Resources(nano_cpus=500_000_000, memory_bytes=64 << 20)
    assert task.placement.max_replicas == 2
    assert task.restart.condition is RestartCondition.ON_FAILURE
    assert spec.update.order is UpdateOrder.START_FIRST


def test_an_unknown_key_is_refused_with_its_line_and_a_suggestion() -> None:
    content = "services:\n  web:\n    image: nginx\n    enviroment: {}\n"
    with pytest.raises(InvalidArgument) as caught:
        read(content)
    (problem,) = caught.value.problems
    assert problem.path == "stack.yaml:4: services.web.enviroment"
    assert problem.hint == "did you mean environment?"


def test_every_mistake_is_told_at_once() -> None:
    found = refused(
        "services:\n"
        "  web:\n"
        "    image: nginx\n"
        "    ports: ['99999:80']\n"
        "    volumes: [data:/data]\n"
        "    expose: [80]\n"
        "    deploy: {replicas: many, resources: {limits: {memory: big}}}\n"
        "  other: {x-driver: process, image: nginx, command: run}\n"
        "models: {}\n"
    )
    assert sorted(line.split(": ")[0] for line in found) == [
        "stack.yaml:4",
        "stack.yaml:5",
        "stack.yaml:6",
        "stack.yaml:7",
        "stack.yaml:7",
        "stack.yaml:8",
        "stack.yaml:9",
    ]


def test_the_rules_of_the_model_are_told_with_the_services_line() -> None:
    (line,) = refused("services:\n  web:\n    image: nginx\n    deploy: {resources: {limits: {memory: 1k}}}\n")
    assert line.startswith("stack.yaml:3: services.web: task.resources.limits.memory_bytes: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "stack.yaml"),
        ("services: [", "stack.yaml:1"),
        ("- a\n- b\n", "stack.yaml:1"),
        ("services:\n  web: hello\n", "stack.yaml:2"),
        ("services:\n  web: {image: a, image: b}\n", "stack.yaml:2"),
        ("services:\n  web: {x-driver: process}\n", "stack.yaml:2"),
        ("services:\n  web: {command: run}\n", "stack.yaml:2"),
        ("services:\n  web: {image: a, command: 'open \"quote'}\n", "stack.yaml:2"),
        ("services:\n  web: {image: a, deploy: {mode: global, replicas: 2}}\n", "stack.yaml:2"),
        ("services:\n  web: {image: a, driver: docker, x-driver: docker}\n", "stack.yaml:2"),
        ("version: '3'\n", "stack.yaml:1"),
        ("a: !!python/object:os.system {}\n", "stack.yaml:1"),
        ("a: " + "[" * 5000 + "\n", "stack.yaml"),
    ],
)
def test_what_is_no_stack_file_is_refused_with_its_line(content: str, line: str) -> None:
    assert any(found.startswith(line) for found in refused(content))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("$A ${A} $$A", "1 1 $A"),
        ("${B:-two}", "two"),
        ("${EMPTY:-three}/${EMPTY-four}", "three/"),
        ("${A:+set}${B:+set}", "set"),
        ("{{.Task.Port}}", "{{.Task.Port}}"),
    ],
)
def test_variables_are_filled_in_as_compose_does(written: str, meant: str) -> None:
    assert interpolate(written, {"A": "1", "EMPTY": ""}, "here") == meant


@pytest.mark.parametrize("written", ["$B", "${B:?it is needed}", "${B", "5$", "$ 5"])
def test_a_variable_that_is_not_there_is_refused(written: str) -> None:
    with pytest.raises(InvalidArgument, match="here"):
        interpolate(written, {}, "here")


def test_each_key_that_is_named_has_a_meaning() -> None:
    """A key in the list that nothing reads would be a silent one."""
    folder = ROOT / "services" / "cli" / "stack"
    source = "".join(path.read_text() for path in sorted(folder.glob("*.py")) if path.name != "refused.py")
    assert not [key for key in (*SERVICE_KEYS, *TOP_KEYS) if source.count(f'"{key}"') < 2 and key != "version"]


@pytest.mark.parametrize("key", sorted(refused_keys.SERVICE))
def test_what_compose_has_and_we_do_not_is_refused_with_its_reason(key: str) -> None:
    (line,) = refused(f"services:\n  web:\n    image: nginx\n    {key}: whatever\n")
    assert line == f"stack.yaml:4: services.web.{key}: is not supported: {refused_keys.SERVICE[key]}"
    assert key not in SERVICE_KEYS


def test_reading_goes_on_after_a_mistake() -> None:
    reading = Reading()
    assert reading.one(whole, "x", "a", 5) == 5
    assert reading.all(whole, ["1", "y", "2"], "b") == (1, 2)
    with pytest.raises(InvalidArgument) as caught:
        reading.finish()
    assert [problem.path for problem in caught.value.problems] == ["a", "b"]
