"""``swarmctl why``: what keeps a service, task or node from being where it should be."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from services.cli.ages import age
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.output import clean
from services.cli.parser import Parser, add_json
from services.cli.plain import to_json
from services.kit.messages.inquiry import Finding, WhyReply


def _arguments(parser: Parser) -> None:
    parser.add_argument("ref", metavar="SERVICE|TASK|NODE", help="id, name, or beginning of an id")
    add_json(parser)


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    reply = await context.client.why(flags.ref)
    if flags.json:
        context.output.line(to_json(reply))
    else:
        for line in why_lines(reply, context.clock.wall()):
            context.output.line(clean(line))
    return Outcome.OK


def why_lines(reply: WhyReply, now: float) -> Iterator[str]:
    """Yield what is printed."""
    if not reply.findings:
        yield f"{reply.noun} {reply.name} is as it should be"
    for finding in reply.findings:
        yield from _finding(finding, now)


def _finding(finding: Finding, now: float) -> Iterator[str]:
    yield f"{finding.about} ({finding.state})"
    since = f", for {age(max(0.0, now - finding.since))}" if finding.since else ""
    yield f"  waits for {finding.waits_for}{since}"
    for refusal in finding.refusals:
        mend = f"; {refusal.mend}" if refusal.mend and refusal.mend != finding.mend else ""
        yield f"  {refusal.nodes:>5} × {refusal.reason}{mend}"
    if finding.nearest is not None:
        yield f"  nearest miss: {finding.nearest.node_name}: {'; '.join(finding.nearest.lacks)}"
    if finding.mend:
        yield f"  to mend it: {finding.mend}"


COMMANDS = (
    Command(
        name="why",
        summary="say what keeps a service, task or node from being where it should be",
        arguments=_arguments,
        run=_run,
    ),
)
