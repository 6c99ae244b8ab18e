"""What a service of a stack file says about its container."""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.cli.stack.mounts import read_mounts
from services.cli.stack.payloads import read_configs, read_secrets
from services.cli.stack.places import Place
from services.cli.stack.shared import Shared
from services.cli.stack.words import (
    read_environment,
    read_environment_files,
    read_labels,
    seconds,
    switch,
    text_of,
    texts,
    words,
)
from services.client import text
from services.kit.model.specs import ContainerSpec, HealthCheck, Privileges, Ulimit

CONTAINER_KEYS = (
    "image",
    "command",
    "entrypoint",
    "environment",
    "env_file",
    "labels",
    "label_file",
    "hostname",
    "user",
    "working_dir",
    "group_add",
    "stop_signal",
    "stop_grace_period",
    "healthcheck",
    "read_only",
    "tty",
    "stdin_open",
    "init",
    "isolation",
    "volumes",
    "tmpfs",
    "cap_add",
    "cap_drop",
    "security_opt",
    "sysctls",
    "ulimits",
    "oom_score_adj",
    "pids_limit",
    "dns",
    "dns_opt",
    "dns_search",
    "extra_hosts",
    "secrets",
    "configs",
)
HEALTH_KEYS = ("test", "interval", "timeout", "retries", "start_period", "start_interval", "disable")


def read_container(
    place: Place, fields: Mapping[str, Place], driver: str, shared: Shared, pids_limit: int
) -> ContainerSpec:
    """Return the container of a service; ``pids_limit`` is what its deploy section says."""
    command, arguments = _command(place, fields, driver)
    environment = {**read_environment_files(fields.get("env_file")), **read_environment(fields.get("environment"))}
    return ContainerSpec(
        image=text_of(fields.get("image")),
        command=command,
        args=arguments,
        env=tuple(f"{name}={value}" for name, value in environment.items()),
        labels={**read_environment_files(fields.get("label_file")), **read_labels(fields.get("labels"))},
        hostname=text_of(fields.get("hostname")),
        user=text_of(fields.get("user")),
        groups=texts(fields.get("group_add")),
        dir=text_of(fields.get("working_dir")),
        stop_signal=text_of(fields.get("stop_signal")),
        stop_grace_period_s=seconds(fields.get("stop_grace_period"), 10.0),
        tty=_switch(fields, "tty"),
        open_stdin=_switch(fields, "stdin_open"),
        read_only=_switch(fields, "read_only"),
        init=_switch(fields, "init") if "init" in fields else None,
        isolation=text_of(fields.get("isolation")) or "default",
        health_check=_health(fields.get("healthcheck")),
        mounts=read_mounts(fields.get("volumes"), fields.get("tmpfs"), shared.volumes),
        capability_add=_capabilities(fields.get("cap_add")),
        capability_drop=_capabilities(fields.get("cap_drop")),
        privileges=Privileges(no_new_privileges=_no_new_privileges(fields.get("security_opt"))),
        sysctls=read_labels(fields.get("sysctls")),
        ulimits=_ulimits(fields.get("ulimits")),
        oom_score_adj=fields["oom_score_adj"].parsed(_score, 0) if "oom_score_adj" in fields else 0,
        pids_limit=fields["pids_limit"].parsed(_any_whole, 0) if "pids_limit" in fields else pids_limit,
        nameservers=texts(fields.get("dns")),
        dns_options=texts(fields.get("dns_opt")),
        dns_search=texts(fields.get("dns_search")),
        hosts=_hosts(fields.get("extra_hosts")),
        secrets=read_secrets(fields.get("secrets"), shared.secrets),
        configs=read_configs(fields.get("configs"), shared.configs),
    )


def _command(place: Place, fields: Mapping[str, Place], driver: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    command, entrypoint = words(fields.get("command")), words(fields.get("entrypoint"))
    if driver != "process":
        if "image" not in fields:
            place.refuse("has no image", hint="add image:, or x-driver: process to run a plain command")
        return entrypoint, command
    for key in ("image", "entrypoint"):
        if key in fields:
            fields[key].refuse("means nothing to the process driver", hint="give a command only")
    if not command:
        place.refuse("has no command", hint="the process driver runs a command")
    return command, ()


def _switch(fields: Mapping[str, Place], key: str) -> bool:
    return fields[key].parsed(switch, False) if key in fields else False


def _health(place: Place | None) -> HealthCheck | None:
    if place is None:
        return None
    fields = place.fields(HEALTH_KEYS)
    if _switch(fields, "disable"):
        return HealthCheck(test=("NONE",))
    test: tuple[str, ...] = ()
    if "test" in fields:
        given = fields["test"]
        test = words(given) if given.is_list else ("CMD-SHELL", given.text())
    return HealthCheck(
        test=test,
        interval_s=seconds(fields.get("interval"), 30.0),
        timeout_s=seconds(fields.get("timeout"), 30.0),
        retries=fields["retries"].parsed(text.whole, 3) if "retries" in fields else 3,
        start_period_s=seconds(fields.get("start_period"), 0.0),
        start_interval_s=seconds(fields.get("start_interval"), 5.0),
    )


def _capabilities(place: Place | None) -> tuple[str, ...]:
    return tuple(
        name if name.startswith("CAP_") or name == "ALL" else f"CAP_{name}"
        for name in (word.upper() for word in texts(place))
    )


def _no_new_privileges(place: Place | None) -> bool:
    wanted = False
    for item in [] if place is None else place.items():
        match = re.fullmatch(r"no-new-privileges(?:[:=](true|false))?", item.text())
        if match is None:
            item.refuse("is not supported", item.text(), "no-new-privileges:true is")
        else:
            wanted = match[1] != "false"
    return wanted


def _ulimits(place: Place | None) -> tuple[Ulimit, ...]:
    found: list[Ulimit] = []
    for name, value in ({} if place is None else place.fields()).items():
        if not value.is_mapping:
            limit = value.parsed(_any_whole, 0)
            found.append(Ulimit(name=name, soft=limit, hard=limit))
            continue
        fields = value.fields(("soft", "hard"))
        if set(fields) != {"soft", "hard"}:
            value.refuse("needs soft and hard", hint="or one number for both")
            continue
        found.append(
            Ulimit(name=name, soft=fields["soft"].parsed(_any_whole, 0), hard=fields["hard"].parsed(_any_whole, 0))
        )
    return tuple(found)


def _any_whole(value: str, path: str) -> int:
    return text.whole(value, path, least=-1)


def _score(value: str, path: str) -> int:
    return text.whole(value, path, least=-1000)


def _hosts(place: Place | None) -> tuple[str, ...]:
    """Return ``name:address`` lines, from a list (``name:address`` or ``name=address``) or a mapping."""
    if place is None:
        return ()
    if place.is_mapping:
        return tuple(f"{name}:{address}" for name, value in place.fields().items() for address in texts(value))
    return tuple(re.sub("[=:]", ":", item.text(), count=1) for item in place.items())
