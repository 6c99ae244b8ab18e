"""The agent process: this node's tasks, run through drivers."""
