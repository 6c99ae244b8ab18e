"""``swarmctl node``: the machines of the swarm."""

from __future__ import annotations

import argparse

from msgspec.structs import replace

from services.cli.commands import Command, Run
from services.cli.context import Context
from services.cli.listing import show_list, show_page
from services.cli.outcomes import Outcome
from services.cli.pages import node_page
from services.cli.parser import Parser, UsageError, add_flag, add_format, add_listing
from services.cli.reading import Reading
from services.cli.tables import NODE_HEADER, TASK_HEADER, node_rows, task_rows
from services.client import text
from services.kit.messages.control import Filters
from services.kit.model.specs import NodeSpec
from services.kit.model.states import Availability, Role, TaskState


def _nodes(parser: Parser) -> None:
    parser.add_argument("nodes", nargs="+", metavar="NODE", help="id, hostname, or beginning of an id")


async def _list(context: Context, flags: argparse.Namespace) -> Outcome:
    nodes = await context.client.nodes.list()
    here = "" if flags.json or flags.quiet else (await context.client.version()).node_id
    show_list(context, flags, nodes, NODE_HEADER, node_rows(nodes, here=here, whole=flags.no_trunc))
    return Outcome.OK


def _inspect_arguments(parser: Parser) -> None:
    parser.add_argument("node", metavar="NODE", help="id, hostname, or beginning of an id")
    add_flag(parser, "-a", "--all", help="show ended tasks as well")
    add_format(parser)


async def _inspect(context: Context, flags: argparse.Namespace) -> Outcome:
    async with context.suggesting_nodes(flags.node):
        node = await context.client.nodes.get(flags.node)
    if not show_page(context, flags, node, lambda: node_page(node)):
        return Outcome.OK
    tasks = await context.client.tasks.list(Filters(node_ids=(node.id,)))
    shown = [task for task in tasks if flags.all or task.status.state <= TaskState.RUNNING]
    if shown:
        services = await context.client.services.list(stale=True)
        context.output.line()
        names = {service.id: service.spec.annotations.name for service in services}
        rows = task_rows(shown, names=names, nodes=await context.node_names(), now=context.clock.wall(), whole=False)
        context.output.table(TASK_HEADER, rows)
    return Outcome.OK


def _update_arguments(parser: Parser) -> None:
    parser.add_argument("node", metavar="NODE", help="id, hostname, or beginning of an id")
    parser.add_argument("--availability", metavar="WHAT", help="active, pause or drain")
    parser.add_argument(
        "--label-add", "--label", action="append", default=[], metavar="KEY=VALUE", help="add or replace a label"
    )
    parser.add_argument("--label-rm", action="append", default=[], metavar="KEY", help="remove a label")


async def _update(context: Context, flags: argparse.Namespace) -> Outcome:
    if flags.availability is None and not flags.label_add and not flags.label_rm:
        raise UsageError("there is nothing to change", "see `swarmctl node update --help`")
    reading = Reading()
    added = dict(reading.all(text.pair, flags.label_add, "--label-add"))
    availability = reading.one(_availability, flags.availability, "--availability", None)
    reading.finish()

    def change(spec: NodeSpec) -> NodeSpec:
        labels = {**spec.annotations.labels, **added}
        for key in flags.label_rm:
            labels.pop(key, None)
        return replace(
            spec,
            annotations=replace(spec.annotations, labels=labels),
            availability=availability or spec.availability,
        )

    async with context.suggesting_nodes(flags.node):
        node = await context.client.nodes.update(flags.node, change)
    context.output.line(node.id)
    return Outcome.OK


def _availability(value: str, path: str) -> Availability | None:
    return text.choice(Availability, value, path)


def _setting(availability: Availability) -> Run:
    """Return the verb that sets an availability."""

    async def run(context: Context, flags: argparse.Namespace) -> Outcome:
        async def act(ref: str) -> str:
            async with context.suggesting_nodes(ref):
                return (await context.client.nodes.set_availability(ref, availability)).id

        return await context.each(flags.nodes, act)

    return run


def _becoming(role: Role) -> Run:
    """Return the verb that changes what a node shall be."""

    async def run(context: Context, flags: argparse.Namespace) -> Outcome:
        async def act(ref: str) -> str:
            async with context.suggesting_nodes(ref):
                return (await context.client.nodes.update(ref, lambda spec: replace(spec, desired_role=role))).id

        return await context.each(flags.nodes, act)

    return run


def _remove_arguments(parser: Parser) -> None:
    _nodes(parser)
    add_flag(parser, "-f", "--force", help="remove a node that is still ready")


async def _remove(context: Context, flags: argparse.Namespace) -> Outcome:
    async def act(ref: str) -> str:
        async with context.suggesting_nodes(ref):
            return (await context.client.nodes.remove(ref, force=flags.force)).id

    return await context.each(flags.nodes, act)


COMMANDS = (
    Command(name="ls", summary="list nodes", arguments=add_listing, run=_list, aliases=("list",)),
    Command(name="inspect", summary="show a node and its tasks", arguments=_inspect_arguments, run=_inspect),
    Command(name="update", summary="change a node's labels and availability", arguments=_update_arguments, run=_update),
    Command(
        name="drain",
        summary="take a node's tasks elsewhere and give it no new ones",
        arguments=_nodes,
        run=_setting(Availability.DRAIN),
    ),
    Command(
        name="pause",
        summary="leave a node's tasks and give it no new ones",
        arguments=_nodes,
        run=_setting(Availability.PAUSE),
    ),
    Command(
        name="activate",
        summary="let a node take tasks again",
        arguments=_nodes,
        run=_setting(Availability.ACTIVE),
    ),
    Command(
        name="promote",
        summary="make workers managers: they get a certificate of that role and a vote",
        arguments=_nodes,
        run=_becoming(Role.MANAGER),
    ),
    Command(
        name="demote",
        summary="make managers workers; the last ones that hold a majority stay",
        arguments=_nodes,
        run=_becoming(Role.WORKER),
    ),
    Command(
        name="rm",
        summary="remove nodes from the swarm, at once",
        arguments=_remove_arguments,
        run=_remove,
        aliases=("remove",),
    ),
)
