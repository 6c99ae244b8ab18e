"""The raft process: the replicated store of the managers."""
