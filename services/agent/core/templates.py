"""The templates that a spec may hold: the part of Go's template language that SwarmKit's users write.

    {{.Service.ID}} {{.Service.Name}} {{index .Service.Labels "key"}} {{.Service.Labels.key}}
    {{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.Architecture}} {{.Node.Platform.OS}}
    {{.Task.ID}} {{.Task.Name}} {{.Task.Slot}} {{.Task.Port}} {{.Task.Port "name"}}   {{"text"}}   {{- trim -}}   {{/* comment */}}

Filled in: env, command, args, hostname, and the mounts' source, target, labels and driver options. A missing label is the empty
text; anything else that is unknown is a TemplateError, which rejects the task with the reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import msgspec

from services.agent.core.ports import port_mark
from services.kit.errors import Code, SwarmError
from services.kit.model.specs import ContainerSpec, Mount, Platform

_TOKEN = re.compile(r'\s*(?:(?P<field>(?:\.\w+)+)|(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<word>\w+))')


class TemplateError(SwarmError):
    """A template that cannot be filled in; the message quotes it."""

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

    def lookup(self, field: str) -> str | None:
        """Return the value of a field such as ``.Task.ID``, or None when there is no such field."""
        if field.startswith(".Service.Labels."):
            return self.service_labels.get(field.removeprefix(".Service.Labels."), "")
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
        }.get(field)


def expand(container: ContainerSpec, scope: Scope) -> ContainerSpec:
    """Return the spec with its templates filled in; raises TemplateError."""

    def fill(text: str) -> str:
        return render(text, scope)

    def fill_map(values: dict[str, str]) -> dict[str, str]:
        return {key: render(value, scope) for key, value in values.items()}

    def fill_mount(mount: Mount) -> Mount:
        return msgspec.structs.replace(
            mount,
            source=fill(mount.source),
            target=fill(mount.target),
            labels=fill_map(mount.labels),
            volume_driver_options=fill_map(mount.volume_driver_options),
        )

    return msgspec.structs.replace(
        container,
        command=tuple(map(fill, container.command)),
        args=tuple(map(fill, container.args)),
        env=tuple(map(fill, container.env)),
        hostname=fill(container.hostname),
        mounts=tuple(map(fill_mount, container.mounts)),
    )


def render(text: str, scope: Scope) -> str:
    """Fill in one text; raises TemplateError."""
    if "{{" not in text:
        return text
    parts: list[str] = []
    rest = text
    while (start := rest.find("{{")) >= 0:
        end = _end_of_action(rest, start + 2, text)
        before, action, rest = rest[:start], rest[start + 2 : end], rest[end + 2 :]
        if action.startswith("- "):
            before, action = before.rstrip(), action[1:]
        if action.endswith(" -"):
            rest, action = rest.lstrip(), action[:-1]
        parts += (before, _evaluate(action.strip(), scope, text))
    return "".join((*parts, rest))


def _end_of_action(text: str, start: int, whole: str) -> int:
    """Find the closing braces, looking past quoted text."""
    quote = ""
    index = start
    while index < len(text):
        character = text[index]
        if quote:
            if character == "\\" and quote == '"':
                index += 1
            elif character == quote:
                quote = ""
        elif character in {'"', "`"}:
            quote = character
        elif text.startswith("}}", index):
            return index
        index += 1
    raise TemplateError(f"template {whole!r}: an action is not closed with }}}}")


def _evaluate(action: str, scope: Scope, whole: str) -> str:
    if action.startswith("/*") and action.endswith("*/"):
        return ""
    match _tokens(action, whole):
        case [("text", text)]:
            return text
        case [("field", ".Task.Port"), ("text", name)]:
            if name not in scope.port_names:
                raise TemplateError(f"template {whole!r}: the service publishes no port named {name!r}")
            return port_mark(name)
        case [("field", field)]:
            value = scope.lookup(field)
            if value is None:
                raise TemplateError(f"template {whole!r}: there is no field {field}")
            return value
        case [("word", "index"), ("field", ".Service.Labels"), ("text", key)]:
            return scope.service_labels.get(key, "")
        case _:
            raise TemplateError(f"template {whole!r}: cannot read {{{{{action}}}}}")


def _tokens(action: str, whole: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(action):
        match = _TOKEN.match(action, position)
        if match is None or match.lastgroup is None:
            raise TemplateError(f"template {whole!r}: cannot read {{{{{action}}}}}")
        kind, token = match.lastgroup, match[match.lastgroup]
        if kind == "text":
            token = _unquote(token, whole)
        tokens.append((kind, token))
        position = match.end()
    return tokens


def _unquote(token: str, whole: str) -> str:
    if token.startswith("`"):
        return token[1:-1]
    try:
        return str(json.loads(token))
    except ValueError:
        raise TemplateError(f"template {whole!r}: cannot read the text {token}") from None
