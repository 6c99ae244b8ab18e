"""The node's place in the network: its ports, its address, and whether the managers are reached and agree on the time."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from services.cli.doctor.findings import Finding, fine, problem, warning
from services.kit.bus.api import Bus, RemoteAddress
from services.kit.bus.identity import Identity
from services.kit.bus.ports import HostPort, NodePorts, node_ports, parse_address
from services.kit.errors import FailedPrecondition, SwarmError
from services.kit.messages import control
from services.kit.messages.method import Empty
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.clock import Clock
from services.supervisor.shell.addresses import advertised, check_free

REACH_TIMEOUT_S = 3.0
SKEW_WARNING_S = 1.0
SKEW_PROBLEM_S = 30.0
"""Certificates and join tokens are judged by the clock; so far apart, nodes refuse one another sooner or later."""
_LISTENING = "0A"
"""As ``/proc/net/tcp`` writes it."""
_NAMES = ("swarm", "joining", "store")


def free_port_findings(ports: NodePorts) -> Iterator[Finding]:
    """Look whether a node could listen here."""
    try:
        check_free(ports)
    except FailedPrecondition as error:
        reason = str(error).partition("; choose")[0]
        holders = sorted({holder for place in ports if (holder := listener_on(place.port))})
        by = f" ({', '.join(holders)})" if holders else ""
        yield problem("ports", reason + by, "end what listens there, or choose another --listen-remote-api")
    else:
        yield fine("ports", f"{', '.join(str(place) for place in ports)} are free")


async def open_port_findings(remote: HostPort, *, manager: bool) -> AsyncIterator[Finding]:
    """Look whether a running node is reached at the address that it tells others."""
    if not manager:
        yield fine("ports", "a worker is called by nobody; published ports and tasks' own listen when there are any")
        return
    ports = node_ports(str(remote))
    shut = [f"{place.port}: {reason}" for place in ports if (reason := await _connect(place))]
    if shut:
        yield problem(
            "ports",
            f"this manager is not reached at {remote.host}, which it tells others: {', '.join(shut)}",
            "mend --advertise-remote-api, or let the firewall pass these ports",
        )
    else:
        yield fine("ports", f"this manager is reached at {remote} and the two ports above")


def listener_on(port: int) -> str:
    """Return the name and pid of what listens on a TCP port, as far as this user may see it, or nothing."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _text(Path(table)).splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = {os.readlink(each) for each in (process / "fd").iterdir()}
        except OSError:
            continue
        if links & inodes:
            return f"{_text(process / 'comm').strip()}, process {process.name}"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def address_findings(listen: str, advertise: str, join_addrs: tuple[str, ...]) -> Iterator[Finding]:
    """Look at the address under which others reach this node."""
    shown = advertised(parse_address(listen), advertise, join_addrs)
    host = parse_address(shown).host
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None)})
    except OSError as error:
        yield problem(
            "addresses", f"{host} has no address: {error.strerror or error}", "mend the name, or advertise a number"
        )
        return
    said = f"others reach this node at {shown}" + ("" if found == [host] else f" ({', '.join(found)})")
    if any(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found):
        yield warning(
            "addresses",
            f"{said}: only from this machine",
            "for a swarm of several machines listen on a real address, or give --advertise-remote-api",
        )
    else:
        yield fine("addresses", said)
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        yield warning(
            "addresses",
            f"this machine's own name {socket.gethostname()!r} has no address",
            "add it to /etc/hosts; some programs wait for it",
        )


async def join_findings(addresses: Sequence[str]) -> AsyncIterator[Finding]:
    """Try the managers that a node without identity would ask."""
    for address in addresses:
        ports = node_ports(address)
        async for finding in _reached(address, (ports.remote, ports.door), ("swarm", "joining")):
            yield finding


async def manager_findings(
    bus: Bus, clock: Clock, identity: Identity, managers: Sequence[ManagerPeer], *, own_role_manager: bool
) -> AsyncIterator[Finding]:
    """Try each manager this node knows: its ports, whether it lets us in, and what its clock says."""
    bus.set_identity(identity)
    for peer in managers:
        if peer.node_id == identity.node_id:
            continue
        ports = node_ports(peer.addr)
        wanted = (ports.remote, ports.door, ports.raft) if own_role_manager else (ports.remote, ports.door)
        worst = fine("managers", "")
        async for finding in _reached(peer.addr, wanted, _NAMES):
            worst = finding
            yield finding
        if not worst.mend:
            yield await _asked(bus, clock, peer)


async def _reached(address: str, places: Sequence[HostPort], names: Sequence[str]) -> AsyncIterator[Finding]:
    shut = [
        f"{place.port} ({name}): {reason}"
        for place, name in zip(places, names, strict=False)
        if (reason := await _connect(place))
    ]
    if not shut:
        yield fine("managers", f"{address} is reached on its {len(places)} ports")
        return
    yield problem(
        "managers",
        f"{parse_address(address).host} is not reached on port {', '.join(shut)}",
        "is that node up? else let a firewall pass these ports, from every node to every manager",
    )


async def _connect(place: HostPort) -> str:
    """Return why a port cannot be reached, or nothing."""
    try:
        async with asyncio.timeout(REACH_TIMEOUT_S):
            _, writer = await asyncio.open_connection(place.host, place.port)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    return ""


async def _asked(bus: Bus, clock: Clock, peer: ManagerPeer) -> Finding:
    host, port = parse_address(peer.addr)
    address = RemoteAddress(host=host, port=port, certificate=peer.certificate)
    try:
        connection = await bus.dial(address, timeout_s=REACH_TIMEOUT_S)
        before = clock.wall()
        reply = await connection.call(control.VERSION, Empty(), timeout_s=REACH_TIMEOUT_S)
        middle = (before + clock.wall()) / 2
    except SwarmError as error:
        return problem(
            "managers",
            f"{peer.addr} does not let this node in: {error}",
            "is the node still in `swarmctl node ls`? if it was removed, join again with an empty state directory",
        )
    return skew_finding(peer.addr, reply.at - middle) if reply.at else fine("clock", f"{peer.addr} tells no time")


def skew_finding(address: str, skew_s: float) -> Finding:
    """Return what it means that another node's clock is so far ahead of ours."""
    said = f"the clock of {address} is {abs(skew_s):.2f} s {'ahead of' if skew_s > 0 else 'behind'} this one"
    mend = "keep both clocks right with chrony or ntpd: certificates and join tokens are judged by them"
    if abs(skew_s) > SKEW_PROBLEM_S:
        return problem("clock", said, mend)
    return warning("clock", said, mend) if abs(skew_s) > SKEW_WARNING_S else fine("clock", said)
