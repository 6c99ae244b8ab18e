"""The nouns of the swarm: ids, specs, objects, states, constraints, and the rules that make a spec valid."""
