"""``swarmctl history``: what happened to one object, who did it and what changed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from services.cli.ages import timestamp
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.output import clean
from services.cli.parser import Parser, add_flag, add_json
from services.cli.plain import plain, to_json
from services.client import text
from services.kit.messages.control import ObjectEvent, ObjectEvents
from services.kit.model.objects import Object
from services.kit.state.tables import Table, decode_object, name_of

CHANGES_MAX = 12
"""Changed fields of one event that are shown."""
VALUE_MAX = 60
_BOOKKEEPING = ("meta",)


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "ref", metavar="OBJECT", help="id, name, or beginning of an id, of anything; also of what is gone"
    )
    add_flag(parser, "-r", "--related", help="of a service or node, its tasks as well")
    parser.add_argument("--last", default="50", metavar="NUMBER", help="at most so many transactions (default 50)")
    add_json(parser)


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    most = text.whole(flags.last, "--last", least=1)
    reply = await context.client.history(flags.ref, related=flags.related, most=most)
    if flags.json:
        context.output.line(to_json([step_plain(step) for step in reply.steps]))
        return Outcome.OK
    for step in reply.steps:
        for line in step_lines(step):
            context.output.line(clean(line))
    if not reply.steps:
        context.output.note(f"nothing happened to it since version {reply.since}, from which on this manager remembers")
    return Outcome.OK


def step_lines(step: ObjectEvents) -> Iterator[str]:
    """Yield the lines of one transaction: when and who, then each object with what changed."""
    yield f"{step.version}  {timestamp(step.at)}  {step.actor or 'unknown'}: {step.cause or 'unknown'}"
    for event in step.events:
        thing = _decoded(event, event.object)
        assert thing is not None
        yield f"    {event.action} {event.table} {name_of(thing) or thing.id}"
        for change in changes_of(event)[:CHANGES_MAX]:
            yield f"        {change}"


def changes_of(event: ObjectEvent) -> list[str]:
    """Return the fields that an update changed: ``path: before → after``."""
    old, new = _decoded(event, event.old), _decoded(event, event.object)
    if old is None or new is None or event.action != "update":
        return []
    before, after = dict(_leaves(plain(old), "")), dict(_leaves(plain(new), ""))
    paths = [path for path in dict.fromkeys((*before, *after)) if before.get(path) != after.get(path)]
    return [
        f"{path}: {_short(before.get(path))} → {_short(after.get(path))}"
        for path in paths
        if path.partition(".")[0] not in _BOOKKEEPING
    ]


def step_plain(step: ObjectEvents) -> dict[str, Any]:
    """Return a transaction for JSON, with its objects decoded."""
    events = [
        {"action": e.action, "table": e.table, "old": plain(_decoded(e, e.old)), "new": plain(_decoded(e, e.object))}
        for e in step.events
    ]
    return {"version": step.version, "at": step.at, "actor": step.actor, "cause": step.cause, "events": events}


def _decoded(event: ObjectEvent, data: bytes) -> Object | None:
    return decode_object(Table(event.table), data) if data else None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _short(value: Any) -> str:
    shown = "nothing" if value is None or value == "" else str(value)
    return shown if len(shown) <= VALUE_MAX else shown[: VALUE_MAX - 1] + "…"


COMMANDS = (
    Command(name="history", summary="show what happened to one object, and who did it", arguments=_arguments, run=_run),
)
