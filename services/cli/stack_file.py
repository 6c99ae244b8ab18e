"""A stack file: the part of the Compose format that swarmctl deploys, read into ServiceSpecs.

Each key works or is refused with file, line and reason; keys that begin with ``x-`` are left alone, as Compose has it, but for
``x-driver``. What goes beyond Compose is the driver: ``driver: process`` (or ``x-driver: process``, which Compose itself accepts) runs a
service's ``command`` as a plain process; without it a service has an ``image`` and runs under docker.

    services:
      web:
        x-driver: process
        command: python3 -m http.server {{.Task.Port}}
        ports: ["8080:80"]
        deploy: {replicas: 3}
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from msgspec.structs import replace

from services.cli.reading import Reading
from services.cli.stack_deploy import read_deploy, read_labels, switch
from services.cli.stack_yaml import Place, load
from services.client import text
from services.kit.errors import Problem
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    EndpointSpec,
    HealthCheck,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from services.kit.model.states import Protocol, PublishMode
from services.kit.model.validate import service_problems

STACK_LABEL = "com.docker.stack.namespace"
"""Marks the services of a stack; docker's own label, so that its tools know them too."""

TOP_KEYS = ("version", "name", "services")
SERVICE_KEYS = (
    "image",
    "driver",
    "x-driver",
    "command",
    "entrypoint",
    "environment",
    "ports",
    "deploy",
    "labels",
    "hostname",
    "user",
    "working_dir",
    "stop_signal",
    "stop_grace_period",
    "healthcheck",
    "read_only",
    "tty",
    "init",
)
HEALTH_KEYS = ("test", "interval", "timeout", "retries", "start_period", "start_interval", "disable")
PORT_KEYS = ("target", "published", "protocol", "mode", "name")


def read_stack(content: str, file_name: str, stack: str, environment: Mapping[str, str]) -> tuple[ServiceSpec, ...]:
    """Return the services of a stack file, named ``STACK_SERVICE``; raises InvalidArgument with every mistake."""
    reading = Reading()
    top = load(content, file_name, environment, reading)
    fields = top.fields(TOP_KEYS)
    specs: list[ServiceSpec] = []
    found: list[Problem] = []
    if "services" not in fields:
        top.refuse("has no services", hint="add services:")
    else:
        for name, place in fields["services"].fields().items():
            before = len(reading.problems)
            spec = _service(name, place, stack)
            if len(reading.problems) == before:
                found += [replace(problem, path=f"{place.where}: {problem.path}") for problem in service_problems(spec)]
            specs.append(spec)
    reading.finish(found)
    return tuple(specs)


def _service(name: str, place: Place, stack: str) -> ServiceSpec:
    fields = place.fields(SERVICE_KEYS)
    driver = _driver(fields)
    deploy = read_deploy(fields.get("deploy"))
    task = TaskSpec(
        driver=driver,
        container=_container(place, fields, driver),
        resources=deploy.resources,
        restart=deploy.restart,
        placement=deploy.placement,
    )
    return ServiceSpec(
        annotations=Annotations(name=f"{stack}_{name}", labels={**deploy.labels, STACK_LABEL: stack}),
        task=task,
        mode=deploy.mode,
        update=deploy.update,
        rollback=deploy.rollback,
        endpoint=EndpointSpec(mode=deploy.endpoint_mode, ports=_ports(fields.get("ports"))),
    )


def _driver(fields: dict[str, Place]) -> str:
    if "driver" in fields and "x-driver" in fields:
        fields["driver"].refuse("says the same as x-driver", hint="keep one of them")
    chosen = fields.get("driver") or fields.get("x-driver")
    return "docker" if chosen is None else chosen.text()


def _container(place: Place, fields: dict[str, Place], driver: str) -> ContainerSpec:
    command, entrypoint = _words(fields.get("command")), _words(fields.get("entrypoint"))
    if driver == "process":
        for key in ("image", "entrypoint"):
            if key in fields:
                fields[key].refuse("means nothing to the process driver", hint="give a command only")
        if not command:
            place.refuse("has no command", hint="the process driver runs a command")
        arguments: tuple[str, ...] = ()
    else:
        if "image" not in fields:
            place.refuse("has no image", hint="add image:, or x-driver: process to run a plain command")
        command, arguments = entrypoint, command
    return ContainerSpec(
        image=_text(fields.get("image")),
        command=command,
        args=arguments,
        env=_environment(fields.get("environment")),
        labels=read_labels(fields.get("labels")),
        hostname=_text(fields.get("hostname")),
        user=_text(fields.get("user")),
        dir=_text(fields.get("working_dir")),
        stop_signal=_text(fields.get("stop_signal")),
        stop_grace_period_s=_duration(fields.get("stop_grace_period"), 10.0),
        tty=_switch(fields, "tty"),
        read_only=_switch(fields, "read_only"),
        init=_switch(fields, "init") if "init" in fields else None,
        health_check=_health(fields.get("healthcheck")),
    )


def _text(place: Place | None) -> str:
    return "" if place is None else place.text()


def _switch(fields: dict[str, Place], key: str) -> bool:
    return fields[key].parsed(switch, False) if key in fields else False


def _duration(place: Place | None, default_s: float) -> float:
    return default_s if place is None else place.parsed(text.duration_s, default_s)


def _words(place: Place | None) -> tuple[str, ...]:
    """Return a command: a list as it is, a text split as a shell would."""
    if place is None or place.empty:
        return ()
    if place.is_list:
        return tuple(item.text() for item in place.items())
    try:
        return tuple(shlex.split(place.text()))
    except ValueError as error:
        place.refuse(f"cannot be split into words: {error}", place.text(), "write it as a list")
        return ()


def _environment(place: Place | None) -> tuple[str, ...]:
    """Return variables; one without a value is taken from the environment of this command, if it is there."""
    if place is None:
        return ()
    lines: list[str] = []
    outside = place.file.environment
    if place.is_mapping:
        for name, value in place.fields().items():
            if not value.empty:
                lines.append(f"{name}={value.text()}")
            elif name in outside:
                lines.append(f"{name}={outside[name]}")
        return tuple(lines)
    for item in place.items():
        line = item.text()
        if "=" in line:
            lines.append(line)
        elif line in outside:
            lines.append(f"{line}={outside[line]}")
    return tuple(lines)


def _ports(place: Place | None) -> tuple[PortConfig, ...]:
    if place is None:
        return ()
    return tuple(
        _long_port(item) if item.is_mapping else item.parsed(text.port, PortConfig(target_port=1))
        for item in place.items()
    )


def _long_port(place: Place) -> PortConfig:
    fields = place.fields(PORT_KEYS)
    if "target" not in fields:
        place.refuse("does not say which port the task listens on", hint="add target:")
        return PortConfig(target_port=1)
    return PortConfig(
        name=_text(fields.get("name")),
        target_port=fields["target"].parsed(text.port_number, 1),
        published_port=fields["published"].parsed(text.port_number, 0) if "published" in fields else 0,
        protocol=fields["protocol"].parsed(_protocol, Protocol.TCP) if "protocol" in fields else Protocol.TCP,
        publish_mode=fields["mode"].parsed(_publish_mode, PublishMode.INGRESS)
        if "mode" in fields
        else PublishMode.INGRESS,
    )


def _protocol(value: str, path: str) -> Protocol:
    return text.choice(Protocol, value, path)


def _publish_mode(value: str, path: str) -> PublishMode:
    return text.choice(PublishMode, value, path)


def _health(place: Place | None) -> HealthCheck | None:
    if place is None:
        return None
    fields = place.fields(HEALTH_KEYS)
    if _switch(fields, "disable"):
        return HealthCheck(test=("NONE",))
    test: tuple[str, ...] = ()
    if "test" in fields:
        given = fields["test"]
        test = _words(given) if given.is_list else ("CMD-SHELL", given.text())
    return HealthCheck(
        test=test,
        interval_s=_duration(fields.get("interval"), 30.0),
        timeout_s=_duration(fields.get("timeout"), 30.0),
        retries=fields["retries"].parsed(text.whole, 3) if "retries" in fields else 3,
        start_period_s=_duration(fields.get("start_period"), 0.0),
        start_interval_s=_duration(fields.get("start_interval"), 5.0),
    )
