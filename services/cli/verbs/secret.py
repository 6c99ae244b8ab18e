"""``swarmctl secret``: what tasks must know and others must not."""

from __future__ import annotations

from services.cli.payload_verbs import PayloadVerbs

COMMANDS = PayloadVerbs("secret").commands()
