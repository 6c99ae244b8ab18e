"""``swarmctl logs``: what tasks wrote; the same as ``swarmctl service logs``."""

from __future__ import annotations

from services.cli.commands import Command
from services.cli.verbs.service import COMMANDS as SERVICE_COMMANDS

_LOGS = next(command for command in SERVICE_COMMANDS if command.name == "logs")

COMMANDS = (Command(name="logs", summary=_LOGS.summary, arguments=_LOGS.arguments, run=_LOGS.run),)
