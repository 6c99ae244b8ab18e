"""Renders docs/protocol.md from the message classes; ``python -m tests.tidy.protocol_page`` rewrites the page."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from services.kit.bus.api import Meta
from services.kit.messages.method import Call, Feed
from services.kit.messages.registry import METHODS, PROTOCOL
from services.kit.model.value import Value

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

HEAD = f"""# Protocol bus/{PROTOCOL}

Every message that crosses a process's wall. This page is rendered from `services/kit/messages`; a test compares them
(`make docs` rewrites the page).

One ZeroMQ frame is one msgpack array `[type, …]`. Bodies are msgpack maps of the fields below; a field equal to its default is left
out, an unknown field is ignored, a missing required one is refused with its path. Connections begin with HELLO and WELCOME, which
carry the certificates; over TCP nothing else is answered before the certificate is checked against the CURVE key that speaks.

*Roles* says who may call a method over the network: a manager's certificate, any node's, or anyone (a joining machine). *Inside* methods
are reachable only between the processes of one node. *Leader* methods are answered by the leader; other managers forward or redirect.
"""


def render() -> str:
    """Return the whole page."""
    parts = [HEAD]
    conversation = ""
    values: dict[type[Value], None] = {Meta: None}
    for method in METHODS:
        name = method.name.split(".")[0]
        if name != conversation:
            conversation = name
            parts.append(f"\n## {conversation}\n\n| method | kind | request | answer | owner | roles | leader |")
            parts.append("|---|---|---|---|---|---|---|")
        parts.append(_row(method))
        for kind in _types(method):
            _collect(kind, values)
    parts.append("\n## Messages and values\n")
    parts.extend(_value(kind) for kind in sorted(values, key=lambda kind: kind.__name__))
    return "\n".join(parts).rstrip() + "\n"


def _types(method: Any) -> tuple[type[Value], ...]:
    if isinstance(method, Call):
        return method.request, method.reply
    if isinstance(method, Feed):
        return method.request, method.item
    return (method.message,)


def _row(method: Any) -> str:
    kind = type(method).__name__.lower()
    types = [f"{kind.__name__}" for kind in _types(method)]
    answer = f"stream of {types[1]}" if isinstance(method, Feed) else types[1] if len(types) > 1 else "none"
    roles = ", ".join(sorted(method.roles)) or "inside"
    leader = "yes" if getattr(method, "leader", False) else ""
    return f"| `{method.name}` | {kind} | {types[0]} | {answer} | {method.owner} | {roles} | {leader} |"


def _collect(kind: Any, values: dict[type[Value], None]) -> None:
    if isinstance(kind, type) and issubclass(kind, Value):
        if kind in values and kind is not Meta:
            return
        values[kind] = None
        for hint in get_type_hints(kind).values():
            _collect(hint, values)
        return
    for argument in get_args(kind):
        _collect(argument, values)


def _value(kind: type[Value]) -> str:
    doc = " ".join((inspect.getdoc(kind) or "").split())
    fields = [f"`{name}`: {_shown(hint)}" for name, hint in get_type_hints(kind).items() if not name.startswith("__")]
    listed = "; ".join(fields) or "no fields"
    return f"- **{kind.__name__}**: {doc} {listed}."


def _shown(hint: Any) -> str:
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("services.kit.", "").split("[")[0].split(".")[-1] + (
        "[" + ", ".join(_shown(argument) for argument in get_args(hint)) + "]" if get_args(hint) else ""
    )


if __name__ == "__main__":
    PAGE.write_text(render())
    sys.stdout.write(f"wrote {PAGE}\n")
