"""Which commands there are. A group's module is imported only when the group is used: that is what keeps swarmctl quick to start."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import cast

from services.cli.context import Context
from services.cli.parser import Parser

Run = Callable[[Context, argparse.Namespace], Awaitable[int]]
"""Returns the exit code, an ``Outcome`` unless the command has one of its own."""


class Tail(Enum):
    """What may stand at the end of the command line without being read as flags."""

    NONE = "none"
    DASHED = "dashed"
    """Everything behind ``--``, found in ``dashed`` (None without it)."""
    WORDS = "words"
    """Everything from the first word that is no flag, found in ``words``, and what is behind ``--`` in ``dashed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One verb."""

    name: str
    summary: str
    arguments: Callable[[Parser], None]
    run: Run
    aliases: tuple[str, ...] = ()
    tail: Tail = Tail.NONE
    usage: str = ""
    """What stands behind the flags, as the usage line shows it."""
    needs_node: bool = True
    """False for a command that asks no node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A noun and its verbs; ``module`` has them in ``COMMANDS``. A group whose only command has its own name has no verbs."""

    name: str
    summary: str
    module: str

    def commands(self) -> tuple[Command, ...]:
        """Import the verbs."""
        return cast("tuple[Command, ...]", importlib.import_module(self.module).COMMANDS)


GROUPS = (
    Group(name="cluster", summary="the swarm itself: settings and join tokens", module="services.cli.verbs.cluster"),
    Group(name="node", summary="the machines of the swarm", module="services.cli.verbs.node"),
    Group(name="service", summary="what runs on it", module="services.cli.verbs.service"),
    Group(name="task", summary="single units of work", module="services.cli.verbs.task"),
    Group(name="secret", summary="what tasks must know and others must not", module="services.cli.verbs.secret"),
    Group(name="config", summary="files that tasks read", module="services.cli.verbs.config"),
    Group(name="network", summary="networks that services are on", module="services.cli.verbs.network"),
    Group(name="volume", summary="storage that follows tasks", module="services.cli.verbs.volume"),
    Group(name="stack", summary="services from a Compose file", module="services.cli.verbs.stack"),
    Group(name="exec", summary="run a command inside a task", module="services.cli.verbs.exec"),
    Group(name="attach", summary="talk to a task's own process", module="services.cli.verbs.attach"),
    Group(name="cp", summary="copy files into tasks and out of them", module="services.cli.verbs.cp"),
    Group(name="logs", summary="what tasks wrote", module="services.cli.verbs.logs"),
    Group(name="stats", summary="what tasks use", module="services.cli.verbs.stats"),
    Group(name="port-forward", summary="reach a task's ports from here", module="services.cli.verbs.port_forward"),
    Group(name="events", summary="what happens, as it happens", module="services.cli.verbs.events"),
    Group(name="history", summary="what happened to one object, and who did it", module="services.cli.verbs.history"),
    Group(name="why", summary="what keeps something from being where it should be", module="services.cli.verbs.why"),
    Group(name="top", summary="the swarm on the terminal, live", module="services.cli.verbs.top"),
    Group(name="backup", summary="the swarm in an encrypted file, and back", module="services.cli.verbs.backup"),
    Group(name="support-bundle", summary="a file for those who help", module="services.cli.verbs.support_bundle"),
    Group(name="completion", summary="command line completion for your shell", module="services.cli.verbs.completion"),
    Group(name="version", summary="versions of swarmctl and of the node", module="services.cli.verbs.version"),
)
