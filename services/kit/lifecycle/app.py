"""What a process is to its lifecycle: an App that is built, started, served and stopped, with a Runtime handed in."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from services.kit.bus.api import Bus
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.clock import Clock
from services.kit.runtime.ids import IdSource


class Node(Protocol):
    """A child's line to its supervisor."""

    @property
    def facts(self) -> Facts:
        """What the supervisor knows of the node, as of now."""

    def changes(self) -> AsyncIterator[Facts]:
        """Yield the facts each time they change (the bus has the new identity already)."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Tell the supervisor which managers there are; it keeps and spreads them."""

    async def report_lock(self, unlock_key: bytes) -> None:
        """Tell the supervisor what the store is about to be sealed under."""

    async def report_node(self, report: NodeReport) -> None:
        """Tell the supervisor what the swarm wants of this node."""

    async def report_ready(self) -> None:
        """Say that this process serves; called by the lifecycle after ``App.start`` unless the app is ``ReadyLater``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything from outside that an app may use."""

    process: str
    clock: Clock
    ids: IdSource
    rng: random.Random
    bus: Bus
    node: Node


class App(Protocol):
    """A process. The lifecycle calls start, then serve and (on drain, signal or lost supervisor) stop; each once."""

    async def start(self) -> None:
        """Open files, bind, recover; return when the process serves."""

    async def serve(self) -> None:
        """Run until cancelled; raising ends the process."""

    async def stop(self) -> None:
        """Refuse new work, finish what is under way within a budget, flush, close."""


class ReadyLater:
    """Mixed into an app that calls ``node.report_ready`` itself, some time after ``start`` (the agent: once it is registered)."""
