"""``swarmctl config``: files that tasks read."""

from __future__ import annotations

from services.cli.payload_verbs import PayloadVerbs

COMMANDS = PayloadVerbs("config").commands()
