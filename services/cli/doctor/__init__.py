"""``supervisor doctor``: looks at this machine as a node of a swarm, and says what is wrong and how to mend it."""
