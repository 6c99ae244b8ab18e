"""The dispatcher: what the swarm does about what its users want. Acts on the leader, stands by elsewhere."""
