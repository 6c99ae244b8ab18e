"""``swarmctl volume``: storage of the swarm that drivers bring to where tasks are. See docs/volume-drivers.md."""

from __future__ import annotations

import argparse

from msgspec.structs import replace

from services.cli.ages import size, timestamp
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.listing import show_list, show_page
from services.cli.outcomes import Outcome
from services.cli.output import Row
from services.cli.parser import Parser, add_flag, add_format, add_listing
from services.cli.reading import Reading
from services.cli.tables import short
from services.client import text
from services.kit.model.objects import Volume
from services.kit.model.specs import Annotations, DriverConfig
from services.kit.model.volumes import (
    AccessMode,
    AccessScope,
    AccessSharing,
    CapacityRange,
    VolumeAvailability,
    VolumeSpec,
)

HEADER = ("ID", "NAME", "DRIVER", "GROUP", "AVAILABILITY", "NODES", "STATE")


def _create_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="what the volume is called")
    parser.add_argument("--driver", required=True, metavar="DRIVER", help="the volume driver")
    parser.add_argument("-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="an option of the driver")
    parser.add_argument("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="a label")
    parser.add_argument("--group", default="", metavar="GROUP", help="volumes that stand in for one another")
    parser.add_argument("--scope", metavar="SCOPE", help="single (default) or multi: on how many nodes at a time")
    parser.add_argument("--sharing", metavar="SHARING", help="none (default), readonly, onewriter or all")
    parser.add_argument("--size", metavar="SIZE", help="how large it has to be, for example 10GiB")


async def _create(context: Context, flags: argparse.Namespace) -> Outcome:
    reading = Reading()
    mode = AccessMode(
        scope=reading.one(_scope, flags.scope, "--scope", AccessScope.SINGLE_NODE),
        sharing=reading.one(_sharing, flags.sharing, "--sharing", AccessSharing.NONE),
    )
    labels = dict(reading.all(text.pair, flags.label, "--label"))
    options = dict(reading.all(text.pair, flags.opt, "--opt"))
    spec = VolumeSpec(
        annotations=Annotations(name=flags.name, labels=labels),
        group=flags.group,
        driver=DriverConfig(name=flags.driver, options=options),
        access_mode=mode,
        capacity=CapacityRange(required_bytes=reading.one(text.size_bytes, flags.size, "--size", 0)),
    )
    reading.finish()
    context.output.line((await context.client.volumes.create(spec)).id)
    return Outcome.OK


async def _list(context: Context, flags: argparse.Namespace) -> Outcome:
    volumes = await context.client.volumes.list()
    show_list(context, flags, volumes, HEADER, [_row(volume, whole=flags.no_trunc) for volume in volumes])
    return Outcome.OK


def _inspect_arguments(parser: Parser) -> None:
    parser.add_argument("ref", metavar="VOLUME", help="id, name, or beginning of an id")
    add_format(parser)


async def _inspect(context: Context, flags: argparse.Namespace) -> Outcome:
    volume = await context.client.volumes.get(flags.ref)
    show_page(context, flags, volume, lambda: _page(volume))
    return Outcome.OK


def _update_arguments(parser: Parser) -> None:
    parser.add_argument("ref", metavar="VOLUME", help="id, name, or beginning of an id")
    parser.add_argument("--availability", required=True, metavar="WORD", help="active, pause or drain")


async def _update(context: Context, flags: argparse.Namespace) -> Outcome:
    availability = text.choice(VolumeAvailability, flags.availability, "--availability")
    volume = await context.client.volumes.update(flags.ref, lambda spec: replace(spec, availability=availability))
    context.output.line(volume.id)
    return Outcome.OK


def _remove_arguments(parser: Parser) -> None:
    parser.add_argument("refs", nargs="+", metavar="VOLUME", help="id, name, or beginning of an id")
    add_flag(parser, "-f", "--force", help="forget it without asking its driver")


async def _remove(context: Context, flags: argparse.Namespace) -> Outcome:
    async def act(ref: str) -> str:
        return (await context.client.volumes.remove(ref, force=flags.force)).id

    return await context.each(flags.refs, act)


def _scope(value: str, path: str) -> AccessScope:
    return text.choice(AccessScope, value, path)


def _sharing(value: str, path: str) -> AccessSharing:
    return text.choice(AccessSharing, value, path)


def _row(volume: Volume, *, whole: bool) -> Row:
    spec = volume.spec
    return (
        short(volume.id, whole=whole),
        spec.annotations.name,
        spec.driver.name,
        spec.group,
        spec.availability.value,
        str(len(volume.publications)),
        _state(volume),
    )


def _state(volume: Volume) -> str:
    if volume.pending_delete:
        return "removing"
    return volume.message or ("being made" if volume.info is None else "ready")


def _page(volume: Volume) -> list[str]:
    spec, info = volume.spec, volume.info
    lines = [
        f"ID:            {volume.id}",
        f"Name:          {spec.annotations.name}",
        f"Driver:        {spec.driver.name}",
        f"Access:        {spec.access_mode.scope.value}, {spec.access_mode.sharing.value}",
        f"Availability:  {spec.availability.value}",
        f"State:         {_state(volume)}",
        f"Created:       {timestamp(volume.meta.created_at)}",
    ]
    lines += [f"Group:         {spec.group}"] if spec.group else []
    lines += [f"Capacity:      {size(info.capacity_bytes)}"] if info is not None and info.capacity_bytes else []
    lines += [
        f"On node:       {each.node_id}  {each.state.name.lower()}" + (f"  {each.message}" if each.message else "")
        for each in volume.publications
    ]
    return lines


COMMANDS = (
    Command(name="create", summary="create a volume", arguments=_create_arguments, run=_create),
    Command(name="ls", summary="list volumes", arguments=add_listing, run=_list, aliases=("list",)),
    Command(name="inspect", summary="show a volume", arguments=_inspect_arguments, run=_inspect),
    Command(
        name="update", summary="let tasks use a volume, or move them off it", arguments=_update_arguments, run=_update
    ),
    Command(
        name="rm",
        summary="destroy volumes and what is on them",
        arguments=_remove_arguments,
        run=_remove,
        aliases=("remove",),
    ),
)
