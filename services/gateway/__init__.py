"""The gateway: the only process that listens to the network."""
