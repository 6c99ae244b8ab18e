"""``swarmctl top``: the swarm on a terminal, live."""
