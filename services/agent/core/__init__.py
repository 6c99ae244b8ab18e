"""Decisions of the agent: pure machines and functions, no clock, no waiting, no log."""
