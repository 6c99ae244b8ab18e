"""``swarmctl events``: what happens to objects, one line each, until interrupted."""

from __future__ import annotations

import argparse
import json
from contextlib import aclosing

from services.cli.ages import timestamp
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.output import clean
from services.cli.parser import Parser, add_flag, add_json
from services.cli.plain import plain
from services.cli.reading import Reading
from services.client import text
from services.client.feed import ObjectChange
from services.kit.model.objects import Node, Object, Task
from services.kit.state.tables import Table, name_of


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "--type", action="append", default=[], metavar="TYPE", help="node, service, task, …: only those"
    )
    parser.add_argument("--service", action="append", default=[], metavar="SERVICE", help="only this service's objects")
    parser.add_argument(
        "--since", default="0", metavar="VERSION", help="begin behind this version of the store, not now"
    )
    add_flag(parser, "--once", help="leave after the first event")
    add_json(parser)


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    reading = Reading()
    tables = reading.all(_table, flags.type, "--type")
    since = reading.one(text.whole, flags.since, "--since", 0)
    reading.finish()
    context.output.on_interrupt = "no longer following"
    changes = context.client.watch(tables=tables, services=flags.service, version=since)
    async with aclosing(changes):
        async for change in changes:
            context.output.line(_json_line(change) if flags.json else event_line(change))
            context.output.out.flush()
            if flags.once:
                break
    return Outcome.OK


def _table(value: str, path: str) -> Table:
    return text.choice(Table, value, path)


def _json_line(change: ObjectChange) -> str:
    return json.dumps(plain(change), ensure_ascii=False)


def event_line(change: ObjectChange) -> str:
    """Return the line of one event: version, time, what was done to what, and where it stands."""
    thing = change.object
    words = (
        str(change.version),
        timestamp(thing.meta.updated_at),
        change.table.value,
        change.action,
        thing.id,
        _more(thing),
        f"by {change.actor}" + (f" ({change.cause})" if change.cause else "") if change.actor else "",
    )
    return clean("  ".join(word for word in words if word))


def _more(thing: Object) -> str:
    match thing:
        case Task():
            error = f": {thing.status.error}" if thing.status.error else ""
            return f"{thing.status.state.name.lower()}, wanted {thing.desired_state.name.lower()}{error}"
        case Node():
            name, state = thing.description.hostname, thing.status.state.name.lower()
            return f"{name} {state}, {thing.spec.availability.value}"
        case _:
            return name_of(thing)


COMMANDS = (
    Command(
        name="events",
        summary="follow what happens to nodes, services, tasks and the rest",
        arguments=_arguments,
        run=_run,
    ),
)
