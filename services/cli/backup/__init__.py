"""Backups of a swarm in files: how one is sealed and opened, and what it holds."""
