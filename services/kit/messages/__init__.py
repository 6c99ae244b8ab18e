"""The contract: every message that crosses a process's wall, one file a conversation; ``registry`` lists all methods."""
