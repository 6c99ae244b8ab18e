"""The verbs of swarmctl, one file a noun; each has its ``COMMANDS``, listed by ``services.cli.commands``."""
