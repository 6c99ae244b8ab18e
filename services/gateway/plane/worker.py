"""A worker of the data plane: owns the carrier, answers plane.sock, and knows when to end.

Started by the gateway in a session of its own. It keeps carrying when the gateway is gone, and ends when told to drain or retire, or
when no gateway has come back in time. What must stay true: one gateway at a time (the newest); every listener the worker holds
is handed to a new gateway before anything else is said.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys

from services.gateway.core.balance import Dice, Target
from services.gateway.core.latency import Latency
from services.gateway.plane.carrier import Carried, Carrier
from services.gateway.plane.channel import Channel, ChannelLost
from services.gateway.plane.loop import READ, WRITE, Loop, Timer
from services.gateway.plane.messages import (
    VERSION,
    Applied,
    AskCounts,
    Counts,
    Drain,
    Endpoint,
    Held,
    Hello,
    Holding,
    Listen,
    MeshIdentity,
    Message,
    Retire,
    Table,
    Unlisten,
)
from services.kit.runtime.clock import Clock

DESCRIPTORS_RESERVED = 640
"""For pipes, listeners and the control line; the rest is for connections, two each."""
CONNECTIONS_MAX = 100_000
ORPHAN_DRAIN_S = 5.0
REPORT_INTERVAL_S = 0.2
SWEEP_S = 0.25
QUIET_SWEEPS = 4
"""While draining, a connection without a byte for this many sweeps is between two requests and is closed politely."""


class Worker:
    """One process of the data plane."""

    def __init__(self, door: socket.socket, path: str, number: int, *, orphan_s: float, clock: Clock) -> None:
        """``door`` listens on ``path`` already."""
        self._loop = Loop(clock)
        self._number = number
        self._orphan_s = orphan_s
        self._carrier = Carrier(self._loop, Dice(os.getpid() ^ int(clock.monotonic() * 1e9)), _connections_max())
        self._path = path
        self._inode = os.stat(path).st_ino
        self._door = door
        self._channel: Channel | None = None
        self._orphaned: Timer | None = None
        self._serial = 0
        self._reported: dict[str, int] = {}
        self._reporting = False
        self._ending = False
        self._end_at = 0.0
        self._quiet: dict[Carried, tuple[int, int]] = {}

    def run(self) -> None:
        """Carry until the end."""
        self._loop.watch(self._door.fileno(), self._on_door, READ)
        self._orphan()
        self._loop.run()

    def _on_door(self, events: int) -> None:
        del events
        sock, _ = self._door.accept()
        if _uid_of(sock) not in {0, os.geteuid()}:  # the directory is 0700 already; this is the second lock
            sock.close()
            return
        self._drop_channel()
        if self._orphaned is not None:
            self._orphaned.cancel()
        self._channel = Channel(sock)
        self._loop.watch(sock.fileno(), self._on_channel, READ)
        self._send(Hello(VERSION, os.getpid(), self._number))
        for name, listener in list(self._carrier.listeners.items()):
            self._send(Holding(name), listener.sock)
        self._send(Held())

    def _on_channel(self, events: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            if events & WRITE:
                channel.flush()
                self._watch_channel(channel)
            received = channel.receive()
        except ChannelLost:
            self._lose_channel()
            return
        for message, listener in received:
            self._obey(message, listener)

    def _obey(self, message: Message, listener: socket.socket | None) -> None:
        match message:
            case Table():
                self._take_table(message)
            case Listen(name=name):
                assert listener is not None, "the channel sees to it"
                self._carrier.listen(name, listener)
            case Unlisten(name=name):
                self._carrier.unlisten(name)
            case MeshIdentity():
                self._become(message)
            case AskCounts():
                self._send(self._counts())
            case Drain(within_s=within_s):
                self._end(within_s, end_listening=True)
            case Retire(within_s=within_s):
                self._end(within_s, end_listening=False)
            case _:
                self._lose_channel()

    def _become(self, identity: MeshIdentity) -> None:
        try:
            self._carrier.mesh.become(identity)
        except OSError as error:
            sys.stderr.write(f"no identity for other gateways: {error}\n")

    def _take_table(self, table: Table) -> None:
        carrier = self._carrier
        named = {route.key for route in table.routes}
        gone = [key for key in carrier.routed() if key not in named] if table.full else table.removed
        for key in gone:
            carrier.unroute(key)
        for route in table.routes:
            carrier.route(route.key, [_target(end) for end in route.endpoints], route.settings)
        self._serial = table.serial
        self._report()

    def _report(self) -> None:
        """Confirm the table, and go on reporting while draining tasks have connections."""
        counts = self._carrier.draining()
        self._reported = counts
        self._send(Applied(self._serial, counts))
        if not self._reporting and any(counts.values()):
            self._reporting = True
            self._loop.later(REPORT_INTERVAL_S, self._report_changes)

    def _report_changes(self) -> None:
        self._reporting = False
        counts = self._carrier.draining()
        if counts != self._reported:
            self._report()
        elif any(counts.values()):
            self._reporting = True
            self._loop.later(REPORT_INTERVAL_S, self._report_changes)

    def _counts(self) -> Counts:
        carrier = self._carrier
        tasks: dict[str, dict[str, int]] = {}
        connects: dict[str, Latency] = {}
        answers: dict[str, Latency] = {}
        for target in carrier.targets():
            connects.setdefault(target.task_id, Latency()).add(target.connects.numbers)
            if any(target.answers.counts):
                answers.setdefault(target.task_id, Latency()).add(target.answers.numbers)
            numbers = tasks.setdefault(target.task_id, {})
            for name in ("open", "connections", "failures", "ejections", "bytes_in", "bytes_out"):
                numbers[name] = numbers.get(name, 0) + getattr(target, name)
        return Counts(
            {
                "open": len(carrier.flows),
                "accepted": carrier.accepted,
                "refused": carrier.refused,
                "retried": carrier.retried,
                "lost": carrier.lost,
                "listeners": len(carrier.listeners),
            },
            tasks,
            {task_id: latency.numbers for task_id, latency in connects.items()},
            {task_id: latency.numbers for task_id, latency in answers.items()},
        )

    def _send(self, message: Message, listener: socket.socket | None = None) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(message, listener)
        except ChannelLost:
            return  # the reader comes to the same end, after what the gateway said last
        self._watch_channel(channel)

    def _watch_channel(self, channel: Channel) -> None:
        self._loop.change(channel.sock.fileno(), READ | WRITE if channel.waiting else READ)

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._loop.unwatch(self._channel.sock.fileno())
            self._channel.close()
            self._channel = None

    def _lose_channel(self) -> None:
        if self._channel is not None:
            self._drop_channel()
            self._orphan()

    def _orphan(self) -> None:
        """Wait for a gateway to come (back), but not for ever."""
        if self._orphaned is not None:
            self._orphaned.cancel()
        self._orphaned = self._loop.later(self._orphan_s, self._end_alone)

    def _end_alone(self) -> None:
        self._end(ORPHAN_DRAIN_S, end_listening=True)

    def _end(self, within_s: float, *, end_listening: bool) -> None:
        if self._ending:
            return
        self._ending = True
        self._carrier.end(listening=end_listening)
        self._loop.unwatch(self._door.fileno())
        self._door.close()
        if os.path.exists(self._path) and os.stat(self._path).st_ino == self._inode:
            os.unlink(self._path)
        self._end_at = self._loop.now + within_s
        self._finish()

    def _finish(self) -> None:
        """Close what has gone quiet, and stop when nothing is left or the time is over."""
        for flow in list(self._carrier.flows):
            moved, sweeps = self._quiet.get(flow, (-1, 0))
            self._quiet[flow] = (flow.moved, sweeps + 1 if flow.moved == moved else 0)
            if self._loop.now >= self._end_at:
                flow.abort()
            elif self._quiet[flow][1] >= QUIET_SWEEPS:
                flow.close()
        if self._carrier.flows:
            self._loop.later(SWEEP_S, self._finish)
        else:
            self._drop_channel()
            self._loop.stop()


def _target(end: Endpoint) -> Target:
    return Target(
        end.task_id,
        end.addr,
        end.port,
        draining=end.draining,
        weight=end.weight,
        local=end.local,
        node_id=end.node_id,
        via=end.via,
    )


def _uid_of(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _connections_max() -> int:
    """Raise the limit of open files as far as it goes and return how many connections fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, (hard - DESCRIPTORS_RESERVED) // 2))
