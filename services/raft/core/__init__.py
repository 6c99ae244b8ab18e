"""Pure decisions of the raft process: what a message, a file or a member means. No clocks, no files, no sockets."""
