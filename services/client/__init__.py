"""The control client: what users' Python imports as ``swarmbus``, and what swarmctl itself is made of."""
