"""Which templates a spec may hold, and what they may name. The language is in ``template_language``.

    {{.Service.ID}} {{.Service.Name}} {{index .Service.Labels "key"}} {{.Service.Labels.key}}
    {{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.Architecture}} {{.Node.Platform.OS}}
    {{.Task.ID}} {{.Task.Name}} {{.Task.Slot}} {{.Task.Port}} {{.Task.Port "name"}}

Filled in: env, command, args, hostname, and the mounts' source, target, labels and driver options; and the payload of a secret or
config whose ``templating`` is ``golang``, which may also say {{env "NAME"}}, {{secret "file"}} and {{config "file"}}: a variable of
the task, and the payloads that the task sees under these file names, as they were stored. A missing label is the empty text; anything else that is
unknown is a TemplateError, which rejects the task with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from services.agent.core.ports import port_mark
from services.agent.core.template_language import BadTemplate, TemplateValue, fill
from services.kit.errors import Code, SwarmError
from services.kit.model.specs import ContainerSpec, Mount, Platform

GOLANG = "golang"


class TemplateError(SwarmError):
    """A template that cannot be filled in; the message says which and why, but quotes no payload."""

    code = Code.INVALID_ARGUMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What templates may name."""

    task_id: str
    task_name: str
    task_slot: str
    """The slot, or the node's id for tasks without one."""
    service_id: str
    service_name: str
    service_labels: dict[str, str]
    node_id: str
    node_hostname: str
    node_platform: Platform
    port_names: frozenset[str]

    def field(self, name: str) -> TemplateValue | None:
        """Return the value of a field."""
        if name.startswith(".Service.Labels."):
            return self.service_labels.get(name.removeprefix(".Service.Labels."), "")
        if name == ".Service.Labels":
            return self.service_labels
        return {
            ".Task.ID": self.task_id,
            ".Task.Name": self.task_name,
            ".Task.Slot": self.task_slot,
            ".Task.Port": port_mark(""),
            ".Service.ID": self.service_id,
            ".Service.Name": self.service_name,
            ".Node.ID": self.node_id,
            ".Node.Hostname": self.node_hostname,
            ".Node.Platform.Architecture": self.node_platform.architecture,
            ".Node.Platform.OS": self.node_platform.os,
        }.get(name)

    def call(self, name: str, arguments: tuple[TemplateValue, ...]) -> TemplateValue | None:
        """Return what a function says: a spec has only the port by name."""
        match name, arguments:
            case ".Task.Port", (str() as port,):
                if port not in self.port_names:
                    raise BadTemplate(f"the service publishes no port named {port!r}")
                return port_mark(port)
            case _:
                return None


@dataclass(slots=True, kw_only=True)
class PayloadScope:
    """What the payload of a secret or config may name."""

    scope: Scope
    env: Mapping[str, str]
    secrets: Mapping[str, bytes] = field(repr=False)
    """By the name of the file under which the task sees them."""
    configs: Mapping[str, bytes] = field(repr=False)
    used_secret: bool = False
    """A secret was put into the payload, which is one itself from then on."""

    def field(self, name: str) -> TemplateValue | None:
        """Return the value of a field."""
        return self.scope.field(name)

    def call(self, name: str, arguments: tuple[TemplateValue, ...]) -> TemplateValue | None:
        """Return a variable, a secret or a config."""
        match name, arguments:
            case "env", (str() as variable,):
                return self.env.get(variable, "")
            case "secret", (str() as file,):
                self.used_secret = True
                return _payload("secret", file, self.secrets)
            case "config", (str() as file,):
                return _payload("config", file, self.configs)
            case _:
                return self.scope.call(name, arguments)


def expand(container: ContainerSpec, scope: Scope) -> ContainerSpec:
    """Return the spec with its templates filled in; raises TemplateError."""

    def fill_text(text: str) -> str:
        return render(text, scope)

    def fill_map(values: dict[str, str]) -> dict[str, str]:
        return {key: render(value, scope) for key, value in values.items()}

    def fill_mount(mount: Mount) -> Mount:
        return msgspec.structs.replace(
            mount,
            source=fill_text(mount.source),
            target=fill_text(mount.target),
            labels=fill_map(mount.labels),
            volume_driver_options=fill_map(mount.volume_driver_options),
        )

    return msgspec.structs.replace(
        container,
        command=tuple(map(fill_text, container.command)),
        args=tuple(map(fill_text, container.args)),
        env=tuple(map(fill_text, container.env)),
        hostname=fill_text(container.hostname),
        mounts=tuple(map(fill_mount, container.mounts)),
    )


def render(text: str, scope: Scope) -> str:
    """Fill in one text of a spec; raises TemplateError, which quotes it."""
    try:
        return fill(text, scope)
    except BadTemplate as error:
        raise TemplateError(f"template {text!r}: {error.reason}") from None


def render_payload(data: bytes, templating: str, scope: PayloadScope, what: str) -> bytes:
    """Return a payload as the task sees it; raises TemplateError. ``what`` names it; only a line number tells of its contents."""
    if not templating:
        return data
    if templating != GOLANG:
        raise TemplateError(f"{what}: there is no templating {templating!r}, only {GOLANG}")
    try:
        return fill(data.decode(), scope).encode()
    except UnicodeDecodeError:
        raise TemplateError(f"{what}: a template must be text in UTF-8") from None
    except BadTemplate as error:
        raise TemplateError(f"{what}: its template cannot be filled in, line {error.line}") from None


def _payload(kind: str, file: str, known: Mapping[str, bytes]) -> str:
    data = known.get(file)
    if data is None:
        raise BadTemplate(f"the task has no {kind} {file!r}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadTemplate(f"{kind} {file!r} is not text") from None
