"""The simulator: whole swarms in one process and in virtual time. ``python -m tests.sim`` runs it; see docs/reliability.md."""
