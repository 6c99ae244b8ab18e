"""Client of the node's raft process: propose, watch, read barrier, and a replica kept by the watch."""
