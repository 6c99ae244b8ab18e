"""The commands: supervisor and swarmctl."""
