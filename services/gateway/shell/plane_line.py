"""The gateway's line to one worker of its data plane: adopts a living worker or starts one, greets it, and brings what it says.

Owned by the keeper, one per worker. What must stay true: there is always a worker or one on its way; a worker of another version is
retired only after its listeners are ours.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Protocol

from services.gateway.plane.channel import Channel, ChannelLost
from services.gateway.plane.messages import VERSION, Held, Hello, Holding, Message, Retire
from services.gateway.shell import plane_process
from services.kit.runtime.log import Log
from services.kit.store.line import BackOff

RETIREMENT_S = 60.0
"""How long connections of a worker of another version may go on beside its successor."""

SETTLED_S = 5.0
"""A worker that lived as long does not count as one that cannot start."""


class Keeper(Protocol):
    """Who owns the listeners and the table."""

    def holding(self, number: int, key: str, listener: socket.socket) -> None:
        """Take a copy of a listener that a worker has."""

    def joined(self, number: int, held: frozenset[str]) -> None:
        """A worker is there and has these listeners: give it what it lacks."""

    def said(self, number: int, message: Message) -> None:
        """Take what a worker says."""


class PlaneLine:
    """The line to worker ``number``."""

    def __init__(self, run_dir: Path, number: int, keeper: Keeper, *, orphan_s: float) -> None:
        self.path = run_dir / ("plane.sock" if number == 0 else f"plane-{number}.sock")
        self.pid = 0
        """Of the worker that said hello last."""
        self.up = asyncio.Event()
        self._number = number
        self._keeper = keeper
        self._orphan_s = orphan_s
        self._channel: Channel | None = None
        self._arrived = asyncio.Event()
        self._log = Log("plane", worker=number)

    async def keep(self) -> None:
        """Keep a worker running until cancelled."""
        back_off = BackOff()
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            sock = plane_process.connect(self.path)
            if sock is None:
                plane_process.start(self.path, self._number, orphan_s=self._orphan_s)
                sock = plane_process.connect(self.path)
                assert sock is not None, "the worker's door is open before it starts"
            try:
                if not await self._talk(Channel(sock)):
                    plane_process.start(self.path, self._number, orphan_s=self._orphan_s)
                    continue
            except ChannelLost as lost:
                if clock() - began > SETTLED_S:
                    back_off.reset()
                self.up.clear()
                words = plane_process.last_words(self.path)
                self._log.warning("worker lost", cause=str(lost), plane_pid=self.pid, last_words=words)
            await back_off.wait()

    def send(self, message: Message, listener: socket.socket | None = None) -> None:
        """Say something to the worker; what is said to a lost one is said again to the next by the keeper."""
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(message, listener)
        except ChannelLost:
            self._arrived.set()  # the reader finds the same and reports it
            return
        if channel.waiting:
            asyncio.get_running_loop().add_writer(channel.sock.fileno(), self._flush, channel)

    def leave(self) -> None:
        """Close the line; the worker carries on alone for a while."""
        channel, self._channel = self._channel, None
        if channel is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(channel.sock.fileno())
            loop.remove_writer(channel.sock.fileno())
            channel.close()

    async def _talk(self, channel: Channel) -> bool:
        """Bring what the worker says until the line is lost; False when it is of another version and was retired."""
        self._channel = channel
        asyncio.get_running_loop().add_reader(channel.sock.fileno(), self._arrived.set)
        held: set[str] = set()
        version = 0
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                for message, listener in channel.receive():
                    match message:
                        case Hello():
                            self.pid, version = message.pid, message.version
                        case Holding(name=name):
                            assert listener is not None, "the channel sees to it"
                            held.add(name)
                            self._keeper.holding(self._number, name, listener)
                        case Held():
                            if version != VERSION:
                                self._log.info("worker retired", version=version)
                                channel.send(Retire(RETIREMENT_S))
                                return False
                            self.up.set()
                            self._log.info("worker serves", plane_pid=self.pid, listeners=len(held))
                            self._keeper.joined(self._number, frozenset(held))
                        case _:
                            self._keeper.said(self._number, message)
        finally:
            self.leave()

    def _flush(self, channel: Channel) -> None:
        try:
            channel.flush()
        except ChannelLost:
            self._arrived.set()
        if not channel.waiting or self._channel is not channel:
            asyncio.get_running_loop().remove_writer(channel.sock.fileno())
