"""Decisions of the supervisor: which children run, when each starts and stops, how a node gets its identity."""
