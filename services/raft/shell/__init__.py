"""The raft process's hands: the library, files, peers, sockets."""
