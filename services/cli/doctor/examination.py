"""The whole examination: what is looked at, in which order. Nothing is changed, whether the node runs or not."""

from __future__ import annotations

from collections.abc import Iterator

from services.cli.ages import timestamp
from services.cli.doctor import machine, network
from services.cli.doctor.findings import Finding, fine, problem, warning
from services.kit.bus.api import Bus, LocalAddress
from services.kit.bus.identity import CERTIFICATE_FILE, Identity, load_identity
from services.kit.bus.ports import node_ports, parse_address
from services.kit.errors import DataLoss, SwarmError, Unavailable
from services.kit.messages import supervise
from services.kit.messages.method import MANAGER, Empty
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.clock import Clock
from services.supervisor.config import NodeSettings
from services.supervisor.shell.known_managers import load_managers

RESTARTS_MANY = 3
LIFE_LEFT_SHARE = 0.2
"""Renewal is tried from half of a certificate's life on: with so little left it has failed for long."""


async def examine(settings: NodeSettings, bus: Bus, clock: Clock) -> tuple[Finding, ...]:
    """Look at everything."""
    findings = list(machine.state_findings(settings.state_dir))
    status, said = await _status(settings, bus)
    findings += said
    if settings.state_dir.is_dir() and not any(each.mend for each in findings if each.about == "state"):
        findings += machine.sync_findings(settings.state_dir, clock)
    listen = settings.listen_remote_api
    if status is None:
        findings += network.free_port_findings(node_ports(listen))
        findings += network.address_findings(listen, settings.advertise_remote_api, settings.join_addr)
    else:
        remote = parse_address(status.remote_addr)
        found = network.open_port_findings(remote, manager=status.role is Role.MANAGER)
        findings += [finding async for finding in found]
        findings += network.address_findings(status.remote_addr, "", ())
    findings += machine.clock_findings()
    identity, said = _identity(settings, clock)
    findings += said
    managers, said = _managers(settings)
    findings += said
    if identity is None:
        findings += [finding async for finding in network.join_findings(settings.join_addr)]
    else:
        own = identity.role == MANAGER
        asked = network.manager_findings(bus, clock, identity, managers, own_role_manager=own)
        findings += [finding async for finding in asked]
        findings += how_many(managers)
    findings += machine.engine_findings(settings.engine_addr)
    findings += machine.limit_findings()
    return tuple(findings)


async def _status(settings: NodeSettings, bus: Bus) -> tuple[supervise.StatusReply | None, list[Finding]]:
    try:
        connection = await bus.dial(LocalAddress(path=settings.supervisor_socket))
        status = await connection.call(supervise.STATUS, Empty())
    except Unavailable:
        return None, [fine("processes", "no node runs with this state directory")]
    except SwarmError as error:
        mend = "look at its log; `supervisor down`, and start it again"
        return None, [problem("processes", f"the node does not answer: {error}", mend)]
    return status, list(process_findings(status))


def process_findings(status: supervise.StatusReply) -> Iterator[Finding]:
    """Look at the processes of a running node."""
    restless = [each for each in status.processes if each.restarts >= RESTARTS_MANY]
    away = [each for each in status.processes if each.state != "ready"]
    if status.state == "locked":
        yield problem(
            "processes",
            "the node is locked",
            "supervisor unlock; another manager shows the key: swarmctl cluster unlock-key",
        )
        return
    for each in restless:
        yield warning("processes", f"{each.process} was restarted {each.restarts} times", "its log lines say why")
    for each in away:
        yield warning(
            "processes",
            f"{each.process} is {each.state}",
            "its log lines say why; `supervisor status` shows since when",
        )
    if not restless and not away:
        yield fine("processes", f"the node is {status.state}, {len(status.processes)} processes serve")


def _identity(settings: NodeSettings, clock: Clock) -> tuple[Identity | None, list[Finding]]:
    directory = settings.state_dir / "certificates"
    if not (directory / CERTIFICATE_FILE).exists():
        return None, [fine("certificate", "the node has none yet: it will make a swarm, or join one with a token")]
    try:
        identity = load_identity(directory)
    except (DataLoss, SwarmError) as error:
        mend = "bring the certificates directory back from a copy, or remove the state directory and join again"
        return None, [problem("certificate", str(error), mend)]
    return identity, [certificate_finding(identity, clock.wall())]


def certificate_finding(identity: Identity, now: float) -> Finding:
    """Look at how long the node's certificate is good for."""
    whose = f"{identity.role} {identity.node_id}"
    if now < identity.not_before:
        return problem(
            "certificate",
            f"that of {whose} begins {timestamp(identity.not_before)}, which is in the future",
            "set this machine's clock right",
        )
    if now >= identity.not_after:
        return problem(
            "certificate",
            f"that of {whose} ran out {timestamp(identity.not_after)}",
            "start the node: managers renew what ran out less than a year ago, if the node was not removed meanwhile",
        )
    left_s, life_s = identity.not_after - now, identity.not_after - identity.not_before
    said = f"that of {whose} is good until {timestamp(identity.not_after)}"
    if left_s < life_s * LIFE_LEFT_SHARE:
        return warning(
            "certificate",
            f"{said}, and was not renewed in time",
            "the node must run and reach a manager; the supervisor's log says why renewing fails",
        )
    return fine("certificate", said)


def _managers(settings: NodeSettings) -> tuple[tuple[ManagerPeer, ...], list[Finding]]:
    try:
        return load_managers(settings.state_dir / "state.json"), []
    except (DataLoss, OSError) as error:
        return (), [problem("managers", str(error), "remove the file, and start once with --join-addr of a manager")]


def how_many(managers: tuple[ManagerPeer, ...]) -> Iterator[Finding]:
    """Say what the number of managers is good for."""
    number = len(managers)
    if number in {1, 2}:
        word = "manager" if number == 1 else "managers"
        yield warning(
            "managers",
            f"the swarm has {number} {word}: it cannot change anything once one of them is lost",
            "have three: swarmctl node promote NODE",
        )
    elif number and number % 2 == 0:
        yield warning(
            "managers",
            f"the swarm has {number} managers, which survive the loss of no more than {number - 1} do",
            "promote or demote one",
        )
    elif number:
        yield fine("managers", f"the swarm has {number}: {(number - 1) // 2} of them may be lost")
