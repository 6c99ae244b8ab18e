"""Docker's swarm HTTP API, the page and the metrics of a node: a client of the control API like any other, in a process of its own."""
