"""What the web process decides: how the swarm looks in Docker's words, and what Docker's words mean to the swarm. Pure."""
