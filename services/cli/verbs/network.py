"""``swarmctl network``: networks that services are on."""

from __future__ import annotations

import argparse
from ipaddress import ip_address, ip_network

from services.cli.ages import ago, timestamp
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.listing import show_list, show_page
from services.cli.outcomes import Outcome
from services.cli.output import Row
from services.cli.pages import Field, page_lines
from services.cli.parser import Parser, add_flag, add_format, add_listing
from services.cli.reading import Reading
from services.cli.tables import short
from services.client import text
from services.kit.model.network_rules import BRIDGE, OVERLAY
from services.kit.model.objects import Network
from services.kit.model.specs import Annotations, DriverConfig, IpamConfig, NetworkSpec
from services.kit.model.subnets import holds_address, is_shared
from services.kit.model.validate import network_problems

HEADER = ("ID", "NAME", "DRIVER", "SUBNETS", "CREATED")
NO_OVERLAY = (
    "no driver that comes with swarmbus carries overlay networks between nodes: services of the docker driver are refused on it;"
    " the driver bridge joins tasks of the same node"
)


def _create_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="what the network is called")
    parser.add_argument("--name", dest="name_flag", metavar="NAME", help="the same")
    parser.add_argument(
        "-d", "--driver", default="", metavar="DRIVER", help="what carries it on each node (default bridge)"
    )
    parser.add_argument("--subnet", action="append", default=[], metavar="RANGE", help="subnet, like 10.1.0.0/24")
    parser.add_argument("--gateway", action="append", default=[], metavar="ADDRESS", help="gateway of a subnet")
    parser.add_argument(
        "--ip-range", action="append", default=[], metavar="RANGE", help="part of a subnet that tasks get addresses of"
    )
    parser.add_argument("--ipam-driver", default="", metavar="DRIVER", help="who deals addresses: default")
    parser.add_argument(
        "-o", "--opt", "--opts", action="append", default=[], metavar="KEY=VALUE", help="option of the driver"
    )
    parser.add_argument("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="a label")
    add_flag(parser, "--internal", help="nothing outside of it can be reached")
    add_flag(parser, "--attachable", help="containers beside the swarm may join it")
    add_flag(parser, "--ipv6", help="it has IPv6 as well; name a subnet of it")


async def _create(context: Context, flags: argparse.Namespace) -> Outcome:
    spec = created_network(flags)
    made = await context.client.networks.create(spec)
    context.output.line(made.id)
    if spec.driver.name == OVERLAY:
        context.output.note(NO_OVERLAY)
    return Outcome.OK


def created_network(flags: argparse.Namespace) -> NetworkSpec:
    """Return the spec that the flags of ``network create`` ask for; raises InvalidArgument with every mistake."""
    reading = Reading()
    name = flags.name_flag or flags.name
    if not name:
        reading.refuse("NAME", "is missing", hint="every network needs a name")
    elif flags.name and flags.name_flag and flags.name != flags.name_flag:
        reading.refuse("--name", "contradicts NAME", flags.name_flag)
    spec = NetworkSpec(
        annotations=Annotations(name=name or "unnamed", labels=dict(reading.all(text.pair, flags.label, "--label"))),
        driver=DriverConfig(name=flags.driver, options=dict(reading.all(text.pair, flags.opt, "--opt"))),
        ipv6=flags.ipv6,
        internal=flags.internal,
        attachable=flags.attachable,
        ipam_driver=DriverConfig(name=flags.ipam_driver),
        ipam=_ranges(reading, flags),
    )
    reading.finish(network_problems(spec))
    return spec


def _ranges(reading: Reading, flags: argparse.Namespace) -> tuple[IpamConfig, ...]:
    """Put gateways and parts to the subnets that they lie in."""
    try:
        subnets = [ip_network(each) for each in flags.subnet]
        gateways = [ip_address(each) for each in flags.gateway]
        parts = [ip_network(each) for each in flags.ip_range]
    except ValueError as error:
        reading.refuse("--subnet", f"cannot be read: {error}", hint="write it like 10.1.0.0/24")
        return ()
    for flag, given in (("--gateway", gateways), ("--ip-range", parts)):
        if given and not subnets:
            reading.refuse(flag, "needs a --subnet", given[0])
    found = []
    for subnet in subnets:
        inside = [each for each in gateways if holds_address(subnet, each)]
        covered = [each for each in parts if is_shared(subnet, each)]
        if len(inside) > 1 or len(covered) > 1:
            reading.refuse("--subnet", "has several gateways or ranges", subnet)
        gateways = [each for each in gateways if each not in inside]
        parts = [each for each in parts if each not in covered]
        found.append(
            IpamConfig(
                subnet=str(subnet),
                gateway=str(inside[0]) if inside else "",
                range=str(covered[0]) if covered else "",
            )
        )
    for flag, left in (("--gateway", gateways), ("--ip-range", parts)):
        if left and subnets:
            reading.refuse(flag, "is in no subnet", left[0])
    return tuple(found)


async def _list(context: Context, flags: argparse.Namespace) -> Outcome:
    networks = await context.client.networks.list()
    now = context.clock.wall()
    show_list(context, flags, networks, HEADER, [network_row(each, now, whole=flags.no_trunc) for each in networks])
    return Outcome.OK


def network_row(network: Network, now: float, *, whole: bool) -> Row:
    """Return a row of a list."""
    return (
        short(network.id, whole=whole),
        network.spec.annotations.name,
        driver_of(network),
        ", ".join(each.subnet for each in network.ipam),
        ago(network.meta.created_at, now),
    )


def driver_of(network: Network) -> str:
    """Return what carries a network."""
    return "ingress" if network.spec.ingress else network.spec.driver.name or BRIDGE


def _one(parser: Parser) -> None:
    parser.add_argument("ref", metavar="NETWORK", help="id, name, or beginning of an id")


def _inspect_arguments(parser: Parser) -> None:
    _one(parser)
    add_format(parser)


async def _inspect(context: Context, flags: argparse.Namespace) -> Outcome:
    network = await context.client.networks.get(flags.ref)
    show_page(context, flags, network, lambda: network_page(network))
    return Outcome.OK


def network_page(network: Network) -> list[str]:
    """Return the lines of a page."""
    spec = network.spec
    ranges: list[Field] = []
    for each in network.ipam:
        ranges += [("Subnet", each.subnet), ("Gateway", each.gateway), ("Range", each.range)]
    return page_lines(
        [
            ("ID", network.id),
            ("Name", spec.annotations.name),
            ("Labels", [(key, value) for key, value in sorted(spec.annotations.labels.items())]),
            ("Created", timestamp(network.meta.created_at)),
            ("Driver", driver_of(network)),
            ("Options", [(key, value) for key, value in sorted(spec.driver.options.items())]),
            ("Addresses", ranges),
            ("Internal", "yes" if spec.internal else ""),
            ("Attachable", "yes" if spec.attachable else ""),
            ("IPv6", "yes" if spec.ipv6 else ""),
        ]
    )


def _remove_arguments(parser: Parser) -> None:
    parser.add_argument("refs", nargs="+", metavar="NETWORK", help="id, name, or beginning of an id")


async def _remove(context: Context, flags: argparse.Namespace) -> Outcome:
    async def act(ref: str) -> str:
        return (await context.client.networks.remove(ref)).id

    return await context.each(flags.refs, act)


COMMANDS = (
    Command(name="create", summary="create a network", arguments=_create_arguments, run=_create, usage="NAME"),
    Command(name="ls", summary="list networks", arguments=add_listing, run=_list, aliases=("list",)),
    Command(name="inspect", summary="show a network and its addresses", arguments=_inspect_arguments, run=_inspect),
    Command(
        name="rm",
        summary="remove networks that no service is on",
        arguments=_remove_arguments,
        run=_remove,
        aliases=("remove",),
    ),
)
