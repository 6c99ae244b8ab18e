"""``swarmctl version``."""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version

from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.pages import page_lines
from services.cli.parser import Parser, add_json
from services.cli.plain import to_json
from services.kit.messages.registry import PROTOCOL


def _arguments(parser: Parser) -> None:
    add_json(parser)


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    reply = await context.client.version()
    if flags.json:
        context.output.line(to_json({"client": {"version": own_version(), "protocol": PROTOCOL}, "node": reply}))
        return Outcome.OK
    for line in page_lines(
        [
            ("Client", [("Version", own_version()), ("Protocol", PROTOCOL)]),
            ("Node", [("Version", reply.version), ("Protocol", reply.protocol), ("ID", reply.node_id)]),
        ]
    ):
        context.output.line(line)
    return Outcome.OK


def own_version() -> str:
    """Return the version that is installed here."""
    try:
        return version("swarmbus")
    except PackageNotFoundError:
        return "unknown"


COMMANDS = (
    Command(name="version", summary="show the versions of swarmctl and of the node", arguments=_arguments, run=_run),
)
